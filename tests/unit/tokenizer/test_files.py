import json

import pytest
from tests import foreign
from tokenizers import models

from candlewick.errors import TokenizerError
from candlewick.tokenizer import files
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.files import byte_level, read_special_tokens, set_post_processor


@pytest.fixture
def split(tmp_path):
    """Write the two files of a tokenizer as transformer_candle did; return the tokenizer."""

    def make(kind="candle_full"):
        rust = foreign.KINDS[kind]()
        rust.model.save(str(tmp_path))
        rust.encode_special_tokens = True
        return rust

    return make


@pytest.mark.parametrize("kind", ["candle", "candle_full", "candle_stream"])
@pytest.mark.parametrize("is_listed", [False, True])
def test_vocab_and_merges_files_load_as_the_original_tokenizer(split, tmp_path, odd_texts, kind, is_listed):
    rust = split(kind)
    if is_listed:
        names = [token["content"] for token in json.loads(rust.to_str())["added_tokens"]]
        (tmp_path / "special_tokens.txt").write_text(json.dumps(names))
    found = Tokenizer.load(tmp_path)
    for text in odd_texts(7, 1000):
        assert found.encode(text) == rust.encode(text, add_special_tokens=False).ids
    ours, theirs = json.loads(found.json_bytes), json.loads(rust.to_str())
    for part in ("added_tokens", "pre_tokenizer", "decoder", "post_processor", "normalizer"):
        assert ours[part] == theirs[part]
    assert ours["model"]["vocab"] == theirs["model"]["vocab"]
    assert ours["model"]["merges"] == theirs["model"]["merges"]
    assert Tokenizer.load(tmp_path).sha256 == found.sha256


def test_tokenizer_json_wins_over_vocab_and_merges(split, tmp_path):
    split()
    content = foreign.llama3().to_str().encode()
    (tmp_path / "tokenizer.json").write_bytes(content)
    assert Tokenizer.load(tmp_path).json_bytes == content


def test_tokenizer_config_json_sets_how_vocab_and_merges_are_read(tmp_path, odd_texts):
    rust = foreign.qwen2()
    rust.model.save(str(tmp_path))
    vocab = json.loads((tmp_path / "vocab.json").read_bytes())
    vocab |= {token["content"]: token["id"] for token in json.loads(rust.to_str())["added_tokens"]}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    settings = {"tokenizer_class": "Qwen2Tokenizer", **foreign.SETTINGS["qwen2"]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    found = Tokenizer.load(tmp_path)
    rust.encode_special_tokens = True
    assert (found.pattern, found.delimiter, found.end_id) == ("qwen2", "<|endoftext|>", None)
    for text in odd_texts(8, 1000):
        assert found.encode(text) == rust.encode(text, add_special_tokens=False).ids


def test_add_prefix_space_false_is_respected(split, tmp_path):
    rust = split("candle_plain")
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    given = Tokenizer.from_files(vocab, merges, add_prefix_space=False)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<bos>"}')
    of_the_hub = Tokenizer.load(tmp_path)
    expected = rust.encode("the word", add_special_tokens=False).ids
    assert given.encode("the word") == of_the_hub.encode("the word") == expected
    assert not given.changes


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("merges.txt", b"#version: 0.2\nt h e\n", "merges.txt is not a tokenizer: "),
        ("merges.txt", b"qq zz\n", "merges.txt is not a tokenizer: "),
        ("merges.txt", b"\xff", "merges.txt: byte 0 is not UTF-8"),
        ("vocab.json", b"[]", "vocab.json is not a tokenizer: it holds no object"),
        ("vocab.json", b'{"a": "b"}', "is not a tokenizer: "),
        ("vocab.json", b"{}", "is not a tokenizer: "),
        ("special_tokens.txt", b"<gone>", "lists <gone>, which the tokenizer does not have"),
        ("tokenizer_config.json", b"{", "tokenizer_config.json is not valid JSON"),
    ],
)
def test_malformed_vocab_or_merges_files_are_refused(split, tmp_path, name, content, said):
    split()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=said):
        Tokenizer.load(tmp_path)


def test_a_vocabulary_without_merges_is_refused(split, tmp_path):
    split()
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(TokenizerError, match=r"merges\.txt does not exist"):
        Tokenizer.load(tmp_path)


def test_vocabulary_without_special_tokens_is_refused(tmp_path):
    byte_level(models.BPE({"a": 0}, [])).model.save(str(tmp_path))
    with pytest.raises(TokenizerError, match="no document delimiter"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "content", ['["<a>", "<b>"]', "<a>\n<b>\n", "# first\n<a>\n\n  # then\n  <b>  \n", ' \n["<a>",\n"<b>"]\n']
)
def test_special_tokens_are_read_from_json_or_lines(tmp_path, content):
    (tmp_path / "list").write_text(content)
    assert read_special_tokens(tmp_path / "list", {"<a>", "<b>", "c"}) == ["<a>", "<b>"]


@pytest.mark.parametrize("content", ["", "# nothing\n", "[]", '["<a>", 3]', '["<a>", "<a>"]', "<a>\n<a>", '[""]'])
def test_malformed_list_of_special_tokens_is_refused(tmp_path, content):
    (tmp_path / "list").write_text(content)
    with pytest.raises(TokenizerError, match="is not a list of special tokens, each once"):
        read_special_tokens(tmp_path / "list", {"<a>"})


def test_truncated_list_of_special_tokens_is_refused(tmp_path):
    (tmp_path / "list").write_text('["<a>"')
    with pytest.raises(TokenizerError, match="is not valid JSON"):
        read_special_tokens(tmp_path / "list", {"<a>"})


@pytest.mark.parametrize(
    ("around", "pair", "expected"),
    [
        (("<bos>", "<eos>"), True, ([1, 9, 2], [1, 9, 2, 1, 8, 2])),
        (("<bos>", "<eos>"), False, ([1, 9, 2], [1, 9, 2, 8])),
        (("<bos>", None), True, ([1, 9], [1, 9, 1, 8])),
        ((None, "<eos>"), False, ([9, 2], [9, 2, 8])),
    ],
)
def test_template_puts_special_tokens_around_a_text(around, pair, expected):
    rust = byte_level(models.BPE({"x": 9, "y": 8, "<bos>": 1, "<eos>": 2}, []), add_prefix_space=False)
    rust.add_special_tokens(["<bos>", "<eos>"])
    set_post_processor(rust, *around, pair=pair)
    assert (rust.encode("x").ids, rust.encode("x", "y").ids) == expected


def test_vocab_json_above_the_size_limit_is_refused(split, tmp_path, monkeypatch):
    split()
    monkeypatch.setattr(files, "MAX_BYTES", 100)
    with pytest.raises(TokenizerError, match=r"vocab\.json cannot be read: it is larger than"):
        Tokenizer.load(tmp_path)
