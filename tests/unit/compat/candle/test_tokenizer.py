import json

import pytest
from tests import foreign

from candlewick.compat.candle.tokenizer import CandleTokenizerConfig, open_candle_tokenizer, read_tokenizer_config
from candlewick.config.formats import write_json, write_toml
from candlewick.config.yaml import write_yaml
from candlewick.errors import ConfigError, TokenizerError

TREE = {
    "model": {
        "vocab_size": 500,
        "min_frequency": 3,
        "dropout": 0.1,
        "special_tokens": ["<pad>", "<bos>", "<eos>"],
        "byte_fallback_on_decode": True,
    },
    "pretokenizer": {"add_prefix_space": True, "trim_offsets": False, "use_regex": True},
    "postprocessor": {"add_bos": True, "add_eos": True, "pair_template": False},
    "training": {"inputs": ["a.txt", "stdlib://"], "seed": 5, "shuffle": True, "max_lines": 9, "num_threads": 2},
    "artifacts": {
        "dir": "out/tok",
        "tokenizer_json": "t.json",
        "vocab_json": "v.json",
        "merges_txt": "m.txt",
        "manifest": "made.json",
    },
}


def changed(*path_and_value) -> dict:
    *path, name, value = path_and_value
    tree = json.loads(json.dumps(TREE))
    section = tree
    for part in path:
        section = section[part]
    if value is None:
        del section[name]
    else:
        section[name] = value
    return tree


@pytest.mark.parametrize(("kind", "write"), [("yaml", write_yaml), ("toml", write_toml), ("json", write_json)])
def test_tokenizer_config_is_read_with_paths_relative_to_its_file(tmp_path, kind, write):
    path = tmp_path / f"tok.{kind}"
    path.write_text(write(TREE))
    config = read_tokenizer_config(str(path))
    assert config is not None
    found = config.model_dump(mode="json")
    assert found["artifacts"].pop("dir") == str(tmp_path / "out/tok")
    assert found["training"].pop("inputs") == [str(tmp_path / "a.txt"), "stdlib://"]
    expected = json.loads(json.dumps(TREE))
    del expected["artifacts"]["dir"], expected["training"]["inputs"]
    assert found == expected


def test_tokenizer_config_fills_absent_keys_with_defaults():
    tree = {"model": {"vocab_size": 300, "special_tokens": ["<|endoftext|>"]}, "artifacts": {"dir": "x"}}
    config = CandleTokenizerConfig.model_validate_json(json.dumps(tree))
    assert (config.postprocessor, config.training, config.model.min_frequency) == (None, None, 2)
    assert config.pretokenizer.add_prefix_space


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (changed("model", "vocab_sise", 3), "model.vocab_sise: unknown key, did you mean vocab_size?"),
        (changed("artifacts", "zzz", 3), "artifacts.zzz: unknown key"),
        (changed("model", "vocab_size", None), "model.vocab_size: Field required"),
        (changed("model", "vocab_size", 0), "model.vocab_size: Input should be greater than or equal to 1"),
        (changed("model", "min_frequency", 0), "model.min_frequency: Input should be greater than"),
        (changed("model", "dropout", 1.0), "model.dropout: Input should be less than 1"),
        (changed("model", "special_tokens", []), "model.special_tokens: "),
        (changed("model", "special_tokens", ["<bos>", "<eos>", "<bos>"]), "model.special_tokens names one twice"),
        (
            changed("model", "special_tokens", ["<bos>"]),
            "postprocessor adds <eos>, which model.special_tokens does",
        ),
        (changed("training", "inputs", []), "training.inputs: "),
        (changed("training", "num_threads", 0), "training.num_threads: "),
        (changed("artifacts", "dir", None), "artifacts.dir: Field required"),
    ],
)
def test_wrong_key_of_a_tokenizer_config_is_refused_with_file_and_key(tmp_path, tree, said):
    path = tmp_path / "tok.yaml"
    path.write_text(write_yaml(tree))
    with pytest.raises(ConfigError) as caught:
        read_tokenizer_config(str(path))
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{path}:")


def test_duplicate_key_of_a_tokenizer_config_is_refused(tmp_path):
    path = tmp_path / "tok.yaml"
    path.write_text(write_yaml(TREE) + "model:\n  vocab_size: 9\n")
    with pytest.raises(ConfigError, match="model"):
        read_tokenizer_config(str(path))


@pytest.mark.parametrize("content", ["data: {train_shards: [a]}", "[", "tokenizer: {vocab_size: 300}"])
def test_other_yaml_files_are_no_tokenizer_config(tmp_path, content):
    (tmp_path / "c.yaml").write_text(content)
    assert read_tokenizer_config(str(tmp_path / "c.yaml")) is None


@pytest.mark.parametrize("source", [None, "demo", "nowhere.yaml", "/"])
def test_profiles_and_missing_files_are_no_tokenizer_config(source):
    assert read_tokenizer_config(source) is None


def config_of(folder, **model) -> CandleTokenizerConfig:
    tree = {"model": {"vocab_size": 500, "special_tokens": ["<pad>", "<bos>", "<eos>"], **model}}
    return CandleTokenizerConfig.model_validate_json(json.dumps({**tree, "artifacts": {"dir": str(folder)}}))


def test_open_candle_tokenizer_reads_one_file_or_two(tmp_path):
    rust = foreign.write("candle_full", tmp_path)
    whole = open_candle_tokenizer(config_of(tmp_path))
    rust.model.save(str(tmp_path))
    (tmp_path / "tokenizer.json").unlink()
    split = open_candle_tokenizer(config_of(tmp_path))
    assert whole.encode("the word") == split.encode("the word")
    assert split.end_id == 2


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"special_tokens": ["<pad>", "<sep>"]}, "it lacks <sep>"),
        ({"vocab_size": 300}, "it has 376 tokens, more than 303"),
    ],
)
def test_tokenizer_that_differs_from_its_config_is_refused(tmp_path, model, said):
    foreign.write("candle_full", tmp_path)
    with pytest.raises(TokenizerError, match=said):
        open_candle_tokenizer(config_of(tmp_path, **model))


def test_missing_tokenizer_of_a_config_is_named(tmp_path):
    with pytest.raises(TokenizerError, match=r"tokenizer\.json does not exist"):
        open_candle_tokenizer(config_of(tmp_path))
