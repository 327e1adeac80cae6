import shutil

import pytest
from tests import foreign
from tests.corpora import exchange, jsonl
from tests.prepared import open_data, plan_run, prepare

from candlewick.artifacts.manifest import json_sha256, read_manifest
from candlewick.checkpoint.layout import list_checkpoints
from candlewick.config import TokenizerConfig
from candlewick.errors import ConfigError, DataError, TokenizerError
from candlewick.runs.sources import (
    all_sources,
    find_tokenizer,
    open_tokenizer,
    source_dataset,
    text_sources,
    without_lost_datasets,
)
from candlewick.tokenizer.bpe import Tokenizer


def with_data(tiny, **settings):
    """`tiny()` with other data settings."""
    return tiny(data={**tiny().data.model_dump(mode="json"), **settings})


@pytest.fixture
def mixed(tiny, text_dir, tokens):
    """A mixture of text, a token dataset and text."""
    shards = [[str(text_dir / "00.txt"), str(text_dir / "01.txt")], [str(tokens)], [str(text_dir / "02.txt")]]
    mixture = [{"shards": own, "weight": weight} for own, weight in zip(shards, (3, 2, 1), strict=True)]
    return lambda **more: with_data(tiny, train_shards=[], mixture=mixture, **more)


def test_all_sources_and_text_sources_name_what_a_run_reads(mixed, text_dir):
    data = mixed(validation_shards=["v.txt"], validation_sets={"code": ["c.txt"]}).data
    assert list(all_sources(data)) == ["tokens_0", "tokens_1", "tokens_2", "validation", "validation_code"]
    assert list(text_sources(data)) == ["tokens_0", "tokens_2", "validation", "validation_code"]


def test_a_mixture_has_one_tokenizer_and_a_dataset_per_source(mixed, tokens):
    config = prepare(mixed()).config
    found = [source_dataset(config.data, f"tokens_{number}") for number in range(3)]
    folders = [folder for folder in found if folder is not None]
    assert folders[1] == tokens
    assert [source.weight for source in config.data.mixture] == [3, 2, 1]
    assert prepare(config).config == config  # nothing is prepared again
    data = open_data(config)
    assert len({read_manifest(folder).inputs["tokenizer"] for folder in folders}) == 1
    assert [split.dataset_id for split in data.train] == [read_manifest(folder).id for folder in folders]
    ids = [split.dataset_id for split in data.train]
    assert plan_run(config).order.identity["dataset_id"] == json_sha256(ids)
    assert list(data.validation_sets) == ["mixture_0", "mixture_1", "mixture_2"]
    assert data.validation.num_tokens == data.validation_sets["mixture_0"].num_tokens


def test_tokenizer_is_trained_on_all_sources_of_a_mixture(tiny, text_dir, cache):
    mixture = [{"shards": [str(text_dir / f"0{i}.txt")]} for i in (3, 4)]
    data = prepare(with_data(tiny, train_shards=[], mixture=mixture))
    together = prepare(with_data(tiny, train_shards=[uri for source in mixture for uri in source["shards"]]))
    assert data.tokenizer.sha256 == together.tokenizer.sha256


def test_mixture_with_validation_text_holds_out_nothing(mixed, text_dir):
    given = str(text_dir / "05.txt")
    data = open_data(mixed(validation_shards=[given]))
    assert data.validation.num_bytes == (text_dir / "05.txt").stat().st_size
    assert data.validation_sets == {}
    assert data.train[2].num_bytes == (text_dir / "02.txt").stat().st_size


def test_validation_sets_may_be_text_or_validation_tokens(tiny, tokens, text_dir, tmp_path):
    other = shutil.copytree(tokens, tmp_path / "copy")
    sets = {"six": [str(text_dir / "06.txt")], "same": [str(other)], "again": [str(text_dir / "06.txt")]}
    config = prepare(with_data(tiny, validation_sets=sets)).config
    assert config.data.prepared.keys() == {"tokens", "validation_six", "validation_again"}
    data = open_data(config)
    assert data.validation_sets["six"].num_bytes == (text_dir / "06.txt").stat().st_size
    assert data.validation_sets["same"].name == "validation"  # it is trained on too: what it held out
    assert data.validation_sets["six"].dataset_id == data.validation_sets["again"].dataset_id
    assert data.validation.num_tokens == data.validation_sets["same"].num_tokens
    assert open_data(tiny()).validation_sets == {}


def test_mixture_source_of_another_tokenizer_is_refused(mixed, tokenizer_folder):
    config = mixed().replaced(tokenizer={"tokenizer_json": tokenizer_folder})
    with pytest.raises(DataError, match="was prepared with tokenizer"):
        open_data(config)


def test_validation_text_without_training_text_is_refused(tiny, text_dir):
    config = with_data(tiny, train_shards=[], validation_shards=[str(text_dir / "06.txt")])
    with pytest.raises(ConfigError, match="no text to train on"):
        open_data(config)


def test_chat_sources_add_chat_tokens_and_masks(tiny, tokens, tmp_path, cache):
    rows = [exchange(f"{i}?", f"{i}.") for i in range(40)]
    (tmp_path / "a.jsonl").write_bytes(jsonl(rows, "messages"))
    (tmp_path / "tokenizer").mkdir()
    Tokenizer.load(tokens / "tokenizer").write(tmp_path / "tokenizer")
    config = with_data(tiny, train_shards=[str(tmp_path / "a.jsonl")], format="chat")
    config = config.replaced(tokenizer={"tokenizer_json": tmp_path / "tokenizer"})
    found = prepare(config).config
    extended = found.data.prepared["tokens"] / "tokenizer"
    assert Tokenizer.load(extended).chat_ids == (300, 301)
    assert open_data(found).train[0].masks is not None
    # the same tokens, whether the tokenizer had the chat's already or not
    again = config.replaced(tokenizer={"tokenizer_json": extended})
    assert prepare(again).config.data == found.data == prepare(found).config.data


def test_tokens_missing_from_the_cache_are_refused_with_the_fix(tiny, text_dir, tmp_path):
    config = with_data(tiny, cache_dir=str(tmp_path), train_shards=[str(tmp_path / "tokens-0123456789abcdef")])
    with pytest.raises(DataError, match=r"the prepared tokens .*tokens-\w+ are gone from the cache .*the text"):
        prepare(config)


def test_tokenizer_in_two_files_is_stored_with_its_tokens(tiny, text_dir, tmp_path, cache):
    foreign.candle(alphabet=True).model.save(str(tmp_path))
    two = {"vocab": tmp_path / "vocab.json", "merges": tmp_path / "merges.txt"}
    config = with_data(tiny, train_shards=[str(text_dir / "00.txt")])
    found = prepare(config.replaced(tokenizer=TokenizerConfig(**two))).config
    own = prepare(found).tokenizer
    assert own.sha256 == Tokenizer.from_files(**two).sha256
    assert (own.delimiter_id, own.end_id) == (1, 2)


def test_tokenizer_of_a_configuration_is_opened(tmp_path):
    foreign.write("candle", tmp_path)
    listed = tmp_path / "special_tokens.txt"
    listed.write_text("# as transformer_candle writes it\n<pad>\n\n<bos>\n<eos>\n")
    rust = foreign.candle()
    rust.model.save(str(tmp_path))
    whole = open_tokenizer(TokenizerConfig(tokenizer_json=tmp_path / "tokenizer.json", special_tokens=listed))
    split = open_tokenizer(
        TokenizerConfig(vocab=tmp_path / "vocab.json", merges=tmp_path / "merges.txt", special_tokens=listed)
    )
    assert open_tokenizer(TokenizerConfig()) is None
    assert whole is not None
    assert split is not None
    assert (whole.delimiter_id, whole.end_id) == (split.delimiter_id, split.end_id) == (1, 2)
    listed.write_text('["<bos>", "<nowhere>", "the"]')
    with pytest.raises(TokenizerError, match="lists <nowhere>, the, which the tokenizer does not have as special"):
        open_tokenizer(TokenizerConfig(tokenizer_json=tmp_path, special_tokens=listed))


def test_prepared_tokens_of_a_name_that_no_source_has_are_left_out(tiny, tmp_path):
    config = tiny().replaced(data={"prepared": {"another": tmp_path}})
    assert without_lost_datasets(config).data.prepared == {}


def test_run_and_its_folders_and_checkpoints_name_a_tokenizer(trained, tokens, tmp_path):
    checkpoint = list_checkpoints(trained / "checkpoints")[-1]
    for path in (trained, trained / "checkpoints", checkpoint):
        assert find_tokenizer(path) == checkpoint
    assert find_tokenizer(tokens) == tokens / "tokenizer"
    assert find_tokenizer(tokens / "tokenizer") == tokens / "tokenizer"
    assert find_tokenizer(checkpoint / "tokenizer.json") == checkpoint / "tokenizer.json"
    assert find_tokenizer(tmp_path) == tmp_path  # reading it says what is missing
    config = TokenizerConfig(tokenizer_json=trained)
    opened = open_tokenizer(config)
    assert opened is not None
    assert opened.sha256 == Tokenizer.load(checkpoint).sha256
