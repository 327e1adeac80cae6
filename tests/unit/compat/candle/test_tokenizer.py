import json
import logging
import os
from pathlib import Path

import pytest
from tests import foreign
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models

from candlewick.artifacts.manifest import file_sha256, read_manifest, verify
from candlewick.compat.candle import tokenizer as module
from candlewick.compat.candle.tokenizer import (
    CandleTokenizerConfig,
    open_candle_tokenizer,
    read_tokenizer_config,
    train_candle_tokenizer,
)
from candlewick.config.formats import write_json, write_toml
from candlewick.config.yaml import write_yaml
from candlewick.errors import ArtifactError, ConfigError, DataError, TokenizerError
from candlewick.tokenizer.bpe import Tokenizer

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


@pytest.fixture
def make(tmp_path):
    """A configuration of transformer_candle at tmp_path/tok, with some keys changed; the text is two files."""
    for number in range(2):
        lines = [line for text in foreign.texts(number, 40) for line in text.split("\n")]
        (tmp_path / f"{number}.txt").write_text("\n".join(lines), encoding="utf-8")

    def config(**changes) -> CandleTokenizerConfig:
        tree = {
            "model": {"vocab_size": 400, "special_tokens": ["<pad>", "<bos>", "<eos>"]},
            "postprocessor": {},
            "training": {"inputs": [str(tmp_path / f"{number}.txt") for number in range(2)]},
            "artifacts": {"dir": str(tmp_path / "tok")},
        }
        for section, keys in changes.items():
            tree[section] = None if keys is None else tree.get(section, {}) | keys
        return CandleTokenizerConfig.model_validate_json(json.dumps(tree))

    return config


def tree_of(folder: Path) -> dict:
    return json.loads((folder / "tokenizer.json").read_bytes())


def test_trained_tokenizer_has_the_parts_of_transformer_candle_and_all_bytes(make, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        manifest, reused = train_candle_tokenizer(make(model={"byte_fallback_on_decode": True}))
    assert not reused
    assert "lossy" not in caplog.text
    assert read_manifest(tmp_path / "tok", "tokenizer", 1) == manifest
    verify(tmp_path / "tok", manifest)
    found, tree = Tokenizer.load(tmp_path / "tok"), tree_of(tmp_path / "tok")
    assert (found.missing_bytes, found.delimiter_id, found.end_id, found.padding_id) == (0, 1, 2, 0)
    assert tree["model"]["byte_fallback"] is True
    made = json.loads(foreign.candle().to_str())
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens"):
        assert tree[part] == made[part]
    text = "naïve 日本 \U0001f600 {y: 1};\tq\n\0"
    assert found.decode(found.encode(text)) == " " + text
    assert all(found.decode(found.encode(" " + chr(code))) == " " + chr(code) for code in range(1, 3000))
    assert found.vocab_size == manifest.details["vocab_size"] <= 400


def test_vocab_and_merges_files_give_the_ids_of_tokenizer_json(make, tmp_path):
    odd_texts = foreign.texts(9, 20)
    train_candle_tokenizer(make())
    folder = tmp_path / "tok"
    model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    rust = RustTokenizer(model)
    rust.pre_tokenizer = RustTokenizer.from_file(str(folder / "tokenizer.json")).pre_tokenizer
    found = Tokenizer.load(folder)
    for text in odd_texts:
        assert rust.encode(text).ids == found.encode(text)
    (folder / "tokenizer.json").unlink()
    split = Tokenizer.from_files(folder / "vocab.json", folder / "merges.txt")
    assert [split.encode(text) for text in odd_texts] == [found.encode(text) for text in odd_texts]


def test_settings_of_the_config_are_in_tokenizer_json(make, tmp_path):
    config = make(
        model={"dropout": 0.25, "min_frequency": 50, "special_tokens": ["<eos>", "<|x|>", "<bos>"]},
        pretokenizer={"add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        postprocessor={"add_eos": False, "pair_template": False},
    )
    manifest, _ = train_candle_tokenizer(config)
    tree = tree_of(tmp_path / "tok")
    assert tree["model"]["dropout"] == 0.25
    assert [token["content"] for token in tree["added_tokens"]] == ["<eos>", "<|x|>", "<bos>"]
    pre = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    assert tree["pre_tokenizer"] == pre
    rust = RustTokenizer.from_str(json.dumps(tree))
    assert rust.encode("").ids == [2]
    assert [rust.encode("", "").ids] == [[2]]
    assert manifest.config["model"]["min_frequency"] == 50
    few = Tokenizer.load(tmp_path / "tok").vocab_size
    train_candle_tokenizer(make(artifacts={"dir": str(tmp_path / "other")}))
    assert few < Tokenizer.load(tmp_path / "other").vocab_size


def test_tokenizer_without_postprocessor_adds_no_special_tokens(make, tmp_path):
    train_candle_tokenizer(make(postprocessor=None, model={"special_tokens": ["<|endoftext|>", "<|pad|>"]}))
    found = Tokenizer.load(tmp_path / "tok")
    assert (found.delimiter_id, found.end_id, found.padding_id, found.template) == (0, None, 1, [])


def test_training_writes_the_manifests_of_candlewick_and_transformer_candle(make, tmp_path):
    config = make(training={"seed": 3, "max_lines": 50})
    manifest, _ = train_candle_tokenizer(config)
    seeds = json.loads((tmp_path / "tok" / "seed_manifest.json").read_bytes())
    assert set(seeds) == {
        *("cfg_hash", "created_at", "token_count", "version", "generated_at_unix", "trained", "force_retrain"),
        *("vocab_size", "tokenizer_seed", "tokenizer_max_lines", "corpora"),
    }
    assert (seeds["version"], seeds["trained"], seeds["vocab_size"]) == (1, True, 400)
    assert (seeds["tokenizer_seed"], seeds["tokenizer_max_lines"]) == (3, 50)
    assert seeds["token_count"] == manifest.details["vocab_size"]
    assert len(seeds["cfg_hash"]) == 64
    assert seeds["created_at"].startswith("unix:1")
    paths = [tmp_path / "0.txt", tmp_path / "1.txt"]
    assert seeds["corpora"] == [
        {"path": str(path), "size_bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in paths
    ]
    assert not any(entry.name == "seed_manifest.json" for entry in manifest.files)


def test_up_to_date_tokenizer_is_reused(make, tmp_path, monkeypatch):
    first, _ = train_candle_tokenizer(make())
    before = (tmp_path / "tok" / "seed_manifest.json").read_bytes()
    monkeypatch.setattr(module, "_fit", None)
    again, reused = train_candle_tokenizer(make(training={"num_threads": None}))
    assert (again, reused) == (first, True)
    assert (tmp_path / "tok" / "seed_manifest.json").read_bytes() == before
    (tmp_path / "tok" / "seed_manifest.json").unlink()
    train_candle_tokenizer(make())
    assert (tmp_path / "tok" / "seed_manifest.json").exists()


def test_artifacts_section_names_the_files(make, tmp_path):
    names = {
        "tokenizer_json": "t.json",
        "vocab_json": str(tmp_path / "sub" / "v.json"),
        "merges_txt": "merges.txt",
    }
    train_candle_tokenizer(make(artifacts={**names, "manifest": "made.json"}))
    folder = tmp_path / "tok"
    assert (folder / "t.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert (tmp_path / "sub" / "v.json").read_bytes() == (folder / "vocab.json").read_bytes()
    assert "cfg_hash" in json.loads((folder / "made.json").read_bytes())
    assert read_manifest(folder).kind == "tokenizer"
    other = tmp_path / "elsewhere"
    train_candle_tokenizer(make(artifacts={"manifest": "manifest.json"}), other)
    assert "cfg_hash" in json.loads((other / "seed_manifest.json").read_bytes())


def test_max_lines_takes_lines_in_an_order_of_the_random_seed(make, tmp_path, monkeypatch):
    (tmp_path / "0.txt").write_text("\n".join(f"a{i}" for i in range(10)))
    (tmp_path / "1.txt").write_text("\n\n".join(f"b{i}" for i in range(10)))
    monkeypatch.setattr(module, "_CHUNK_LINES", 4)

    def lines(**training) -> list[str]:
        config = make(training=training)
        corpus = module.open_text(config.training.inputs, module.DataConfig(documents="line"))
        return list(module._lines(corpus, config.training, 1 << 20))

    plain = [f"{side}{i}" for side in "ab" for i in range(10)]
    assert lines(shuffle=False) == plain
    assert lines(shuffle=False, max_lines=13) == plain[:13]
    orders = [lines(seed=seed) for seed in range(6)]
    assert orders[3] == lines(seed=3)
    assert len({tuple(order) for order in orders}) == 6
    assert {order[0][0] for order in orders} == {"a", "b"}  # files are shuffled too
    for order in orders:
        first = "a" if order[0][0] == "a" else "b"
        files = [f"{side}{i}" for side in (first, "b" if first == "a" else "a") for i in range(10)]
        assert [sorted(order[at : at + 4]) for at in range(0, 20, 4)] == [
            sorted(files[at : at + 4]) for at in range(0, 20, 4)
        ]
        assert sorted(lines(seed=orders.index(order), max_lines=7)) == sorted(files[:7])


def test_long_lines_without_a_pattern_match_are_cut(make):
    config = make()
    corpus = module.open_text(config.training.inputs, module.DataConfig(documents="line"))
    whole = list(module._lines(corpus, config.training, 1 << 20))
    cut = list(module._lines(corpus, config.training, 10))
    assert "".join(cut) == "".join(whole)
    assert max(map(len, cut)) == 10


def test_num_threads_leaves_the_environment_unchanged(make, tmp_path):
    before = dict(os.environ)
    train_candle_tokenizer(make(training={"num_threads": 1}))
    assert dict(os.environ) == before
    train_candle_tokenizer(make(), tmp_path / "other")
    one, other = ((tmp_path / name / "tokenizer.json").read_bytes() for name in ("tok", "other"))
    assert one == other


def test_impossible_training_is_refused_with_the_reason(make, tmp_path):
    with pytest.raises(ConfigError, match=r"no text to train on .*set training\.inputs"):
        train_candle_tokenizer(make(training=None))
    with pytest.raises(ConfigError, match="vocab_size=258 is too small: 256 bytes and 3 special tokens"):
        train_candle_tokenizer(make(model={"vocab_size": 258}))
    with pytest.raises(DataError, match="gone"):
        train_candle_tokenizer(make(training={"inputs": [str(tmp_path / "gone.txt")]}))
    with pytest.raises(TokenizerError, match="no document delimiter"):
        train_candle_tokenizer(make(postprocessor=None, model={"special_tokens": ["<x>"]}))
    (tmp_path / "tok").mkdir(exist_ok=True)
    (tmp_path / "tok" / "mine").write_text("x")
    with pytest.raises(ArtifactError, match="is not replaced"):
        train_candle_tokenizer(make())
