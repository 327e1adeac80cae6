import hashlib
import json
import logging

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests import foreign

from candlewick.errors import TokenizerError
from candlewick.tokenizer import bpe, files
from candlewick.tokenizer.bpe import Tokenizer, surrogate_error
from candlewick.tokenizer.encoder import ReferenceEncoder
from candlewick.tokenizer.special import DELIMITER, PADDING


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8")))
@example("<|endoftext|><|padding|>")
@example("e\u0301 \r\n\u2028 \ufeff\0 \U0010ffff")
@example("a" * 10_000 + " " * 10_000 + "\n" * 10_000)
def test_encoding_and_decoding_is_the_identity(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8")))
@example("<|endoftext|>")
def test_encode_never_gives_special_tokens(tokenizer, text):
    assert not {tokenizer.delimiter_id, tokenizer.padding_id} & set(tokenizer.encode(text + DELIMITER + PADDING))


def test_delimiter_and_padding_have_the_first_ids(tokenizer):
    assert (tokenizer.delimiter_id, tokenizer.padding_id) == (0, 1)
    assert tokenizer.pattern == "qwen2"
    assert tokenizer.vocab_size == 350


def test_decode_shows_special_tokens_on_request(tokenizer):
    ids = [0, *tokenizer.encode("hi"), 1]
    assert tokenizer.decode(ids) == "hi"
    assert tokenizer.decode(ids, skip_special=False) == "<|endoftext|>hi<|padding|>"
    assert tokenizer.token_bytes(0) == DELIMITER.encode()


def test_decode_shows_half_a_character_as_replacement(tokenizer):
    first = tokenizer.encode("\U0001f600")[0]
    assert tokenizer.decode([first]) == "\ufffd"


@pytest.mark.parametrize("wrong", [-1, 350, 1 << 70])
def test_decode_refuses_an_id_outside_the_vocabulary(tokenizer, wrong):
    with pytest.raises(TokenizerError, match=f"there is no token {wrong} .*ids are 0 to 349"):
        tokenizer.decode([3, wrong])


def test_encode_refuses_half_a_surrogate_pair_with_its_position(tokenizer):
    with pytest.raises(TokenizerError, match=r"the text has half a surrogate pair \(U\+D800\) at character 2"):
        tokenizer.encode("ab\ud800")
    assert "text 1 has half a surrogate pair (U+DFFF) at character 0" in str(surrogate_error(["a", "\udfff"]))
    assert surrogate_error(["a"]).problem == "the input is not text"


def test_vocabulary_merges_neither_digits_nor_words_across_spaces(tokenizer):
    tokens = [tokenizer.token_bytes(i) for i in range(2, tokenizer.vocab_size)]
    assert not [token for token in tokens if len(token) > 1 and set(token) & set(b"0123456789")]
    assert not [token for token in tokens if b" " in token.strip(b" ") and token.strip()]


def test_written_tokenizer_loads_equal(tokenizer, tmp_path):
    entries = tokenizer.write(tmp_path, model_max_length=128)
    assert [entry.name for entry in entries] == ["tokenizer.json", "tokenizer_config.json"]
    assert entries[0].sha256 == tokenizer.sha256 == hashlib.sha256(tokenizer.json_bytes).hexdigest()
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        found = Tokenizer.load(path)
        assert found.sha256 == tokenizer.sha256
        assert found.encode("the naïve token") == tokenizer.encode("the naïve token")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "bos_token": DELIMITER,
        "eos_token": DELIMITER,
        "pad_token": PADDING,
        "model_max_length": 128,
    }


def test_a_tokenizer_may_have_no_padding_token(tree, tmp_path):
    del tree["added_tokens"][1]
    vocab = tree["model"]["vocab"]
    tree["model"]["vocab"] = {token: i - (i > 1) for token, i in vocab.items() if token != PADDING}
    found = Tokenizer(json.dumps(tree).encode())
    assert found.padding_id is None
    found.write(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert "pad_token" not in config
    assert "model_max_length" not in config


def test_load_refuses_a_missing_file_by_name(tmp_path):
    with pytest.raises(TokenizerError, match="nothing does not exist .*give a tokenizer.json or its folder"):
        Tokenizer.load(tmp_path / "nothing")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json does not exist"):
        Tokenizer.load(tmp_path)


def test_load_refuses_a_file_above_the_size_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 1 << 20)
    (tmp_path / "tokenizer.json").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(TokenizerError, match="it is larger than 1048576 bytes"):
        Tokenizer.load(tmp_path)


def test_transformers_encodes_to_the_same_ids(tokenizer, tmp_path, odd_texts, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    tokenizer.write(tmp_path, model_max_length=64)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 0, 1)
    assert theirs.model_max_length == 64
    assert len(theirs) == tokenizer.vocab_size
    samples = odd_texts(1, 10_000)
    assert theirs(samples, add_special_tokens=True, truncation=False, verbose=False)["input_ids"] == [
        tokenizer.encode(text) for text in samples
    ]
    assert all(theirs.decode(tokenizer.encode(text)) == text for text in samples[:500])


@settings(deadline=None)
@given(st.lists(st.integers(0, 349)))
def test_decode_continuation_equals_decode_for_candlewick_tokenizers(tokenizer, ids):
    assert tokenizer.decode_continuation(ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", foreign.KINDS)
def test_foreign_tokenizers_load_unchanged_with_the_ids_of_the_library(kind, tmp_path, odd_texts):
    rust = foreign.write(kind, tmp_path)
    rust.encode_special_tokens = True
    found = Tokenizer.load(tmp_path)
    assert found.json_bytes == (tmp_path / "tokenizer.json").read_bytes()
    assert found.vocab_size == rust.get_vocab_size()
    for text in (*odd_texts(2, 3000), *foreign.texts(1, 10), "<think>a</think> <s><bos><|endoftext|><|im_start|>"):
        ids = rust.encode(text, add_special_tokens=False).ids
        assert found.encode(text) == ids
        assert found.decode(ids) == rust.decode(ids)
        assert not {found.delimiter_id, found.end_id} & set(ids)
        if not found.changes:
            assert found.decode(ids) == text


@pytest.mark.parametrize("kind", foreign.KINDS)
def test_written_foreign_tokenizers_keep_ids_and_roles(kind, tmp_path, odd_texts, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    rust = foreign.write(kind, tmp_path / "in")
    rust.encode_special_tokens = True
    found = Tokenizer.load(tmp_path / "in")
    (tmp_path / "out").mkdir()
    found.write(tmp_path / "out", model_max_length=99)
    again = Tokenizer.load(tmp_path / "out")
    assert (again.json_bytes, again.roles) == (found.json_bytes, found.roles)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    texts = odd_texts(4, 1000)
    given = theirs(texts, add_special_tokens=False, verbose=False)["input_ids"]
    assert given == [found.encode(text) for text in texts]
    given = theirs(texts, add_special_tokens=True, verbose=False)["input_ids"]
    assert given == [encoding.ids for encoding in rust.encode_batch(texts)]
    assert theirs.bos_token == found.roles.names["bos_token"]
    assert theirs.eos_token == found.roles.names["eos_token"]
    assert theirs.pad_token_id == found.padding_id
    assert theirs.decode(found.encode("Hello the word")) == found.decode(found.encode("Hello the word"))


@pytest.mark.parametrize(
    ("kind", "delimiter", "end", "stops", "padding", "missing"),
    [
        ("candle", "<bos>", "<eos>", ("<eos>", "<bos>"), "<pad>", True),
        ("candle_stream", "<|endoftext|>", None, ("<|endoftext|>",), "<|pad|>", True),
        ("candle_full", "<bos>", "<eos>", ("<eos>", "<bos>"), "<pad>", False),
        ("qwen2", "<|endoftext|>", None, ("<|im_end|>", "<|endoftext|>"), "<|endoftext|>", False),
        ("qwen3", "<|endoftext|>", None, ("<|im_end|>", "<|endoftext|>"), "<|endoftext|>", False),
        (
            *("llama3", "<|begin_of_text|>", "<|end_of_text|>"),
            *(("<|end_of_text|>", "<|eot_id|>", "<|begin_of_text|>"), None, False),
        ),
        ("llama2", "<s>", "</s>", ("</s>", "<s>"), None, False),
    ],
)
def test_foreign_tokenizers_have_their_begin_end_and_stop_tokens(
    kind, delimiter, end, stops, padding, missing, tmp_path
):
    rust = foreign.write(kind, tmp_path)
    found = Tokenizer.load(tmp_path)

    def id_of(token):
        return None if token is None else rust.token_to_id(token)

    assert (found.delimiter, found.delimiter_id) == (delimiter, id_of(delimiter))
    assert (found.end_id, found.padding_id) == (id_of(end), id_of(padding))
    assert found.stop_ids == tuple(map(id_of, stops))
    assert (found.missing_bytes > 0) is missing
    assert {delimiter, *([end] if end else [])} <= found.special_tokens.keys()


def test_candlewick_tokenizer_has_a_delimiter_and_no_end_token(tokenizer):
    assert (tokenizer.end_id, tokenizer.stop_ids, tokenizer.missing_bytes) == (None, (0,), 0)
    assert not tokenizer.changes
    assert tokenizer.changes == ()
    assert tokenizer.continuation_json is None
    assert tokenizer.encoder_json is tokenizer.json_bytes
    assert tokenizer.with_chat_tokens().stop_ids == (351, 0)


def test_a_lossy_tokenizer_warns_once_with_the_remedy(tmp_path, caplog):
    foreign.write("candle", tmp_path)
    bpe._tell_once.cache_clear()
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            found = Tokenizer.load(tmp_path)
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert f"{found.missing_bytes} of the 256 bytes are dropped" in record.getMessage()
    assert "candlewick tokenizer train" in record.getMessage()
    vocab = json.loads(found.json_bytes)["model"]["vocab"]
    assert found.missing_bytes == 256 - sum(len(token) == 1 for token in vocab)
    assert found.decode(found.encode("the \U0001f600 of")) == " the  of"


def test_bytes_that_become_the_unknown_token_are_reported(tmp_path):
    tree = json.loads(foreign.llama2().to_str())
    tree["model"]["byte_fallback"] = False
    found = Tokenizer(json.dumps(tree).encode())
    assert 128 <= found.missing_bytes < 256
    assert found.changes[0] == f"{found.missing_bytes} of the 256 bytes become <unk>"
    assert found.changes


@pytest.mark.parametrize("kind", ["candle", "candle_full", "llama2", "llama2_metaspace"])
def test_continued_text_gets_no_prefix_space(kind, tmp_path):
    foreign.write(kind, tmp_path)
    found = Tokenizer.load(tmp_path)
    assert found.continuation_json is not None
    going_on = ReferenceEncoder(found.continuation_json)
    text = "Hello the word of the import"
    for cut in (5, 9, 14):
        ids = found.encode(text[:cut]) + going_on.encode([text[cut:]])[0].tolist()
        assert ids == found.encode(text)
    assert going_on.encode(["the"])[0].tolist() != found.encode("the")


@pytest.mark.parametrize("kind", ["llama2", "llama2_metaspace", "candle_full", "qwen2"])
def test_decoded_parts_join_to_the_decoded_text(kind, tmp_path):
    foreign.write(kind, tmp_path)
    found = Tokenizer.load(tmp_path)
    ids = found.encode("the of naïve 日本 \U0001f600 x")
    whole = found.decode(ids)
    assert "".join(found.decode_continuation([i]) for i in ids if i not in found.stop_ids).strip("\ufffd ")
    assert found.decode_continuation(ids[:2]) + found.decode_continuation(ids[2:]) == found.decode_continuation(
        ids
    )
    assert found.decode_continuation(ids).removeprefix(" ") == whole.removeprefix(" ")
    assert found.decode_continuation([found.delimiter_id]) == ""


def test_dropout_is_kept_in_the_file_and_not_applied(tmp_path):
    rust = foreign.candle(alphabet=True)
    expected = rust.encode("the attention of the gradient", add_special_tokens=False).ids
    rust.model.dropout = 0.5
    found = Tokenizer(rust.to_str().encode())
    assert json.loads(found.json_bytes)["model"]["dropout"] == 0.5
    assert all(found.encode("the attention of the gradient") == expected for _ in range(20))
    assert ReferenceEncoder(found.encoder_json).encode(["the attention of the gradient"])[0].tolist() == expected


def test_ids_without_a_token_decode_to_nothing(tree):
    tree["model"]["vocab"]["new"] = 400
    found = Tokenizer(json.dumps(tree).encode())
    assert found.vocab_size == 401
    assert found.decode([360, 400]) == "new"
    assert (found.token_bytes(360), found.token_bytes(400)) == (b"", b"new")


def test_token_bytes_of_a_sentencepiece_vocabulary_join_to_the_text(tmp_path):
    foreign.write("llama2", tmp_path)
    found = Tokenizer.load(tmp_path)
    text = "the naïve 日 \U0001f600"
    assert b"".join(map(found.token_bytes, found.encode(text))) == f" {text}".encode()


def test_chat_tokens_are_added_to_a_foreign_tokenizer_with_its_roles(tmp_path):
    rust = foreign.write("llama3", tmp_path)
    found = Tokenizer.load(tmp_path).with_chat_tokens()
    assert found.chat_ids == (rust.get_vocab_size(), rust.get_vocab_size() + 1)
    assert found.delimiter == "<|begin_of_text|>"
    assert found.roles.names["eos_token"] == "<|eot_id|>"
    assert found.with_chat_tokens() is found


@pytest.mark.parametrize("template", [None, "of chat_template.jinja \u65e5\n"])
def test_foreign_chat_template_is_kept_until_chat_tokens_are_added(template, tmp_path):
    foreign.write("qwen3", tmp_path)
    if template is not None:  # transformers, too, prefers this file
        (tmp_path / "chat_template.jinja").write_text(template, encoding="utf-8")
    found = Tokenizer.load(tmp_path)
    (tmp_path / "out").mkdir()
    for folder in (tmp_path / "out", tmp_path):
        found.write(folder)
        written = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        assert written["chat_template"] == (template or "theirs")
    assert not (tmp_path / "out" / "chat_template.jinja").exists()
    found.with_chat_tokens().write(tmp_path)
    assert "<|im_start|>" in json.loads((tmp_path / "tokenizer_config.json").read_text())["chat_template"]


@pytest.mark.parametrize("kind", ["qwen2", "llama2", "candle"])
def test_padding_and_truncation_of_transformers_last_call_are_no_part_of_a_tokenizer(
    kind, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    foreign.write(kind, tmp_path / "in")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    theirs.save_pretrained(tmp_path / "before")
    theirs.pad_token = theirs.pad_token or theirs.eos_token or "<eos>"
    theirs(["the of", "the"], padding="max_length", truncation=True, max_length=3)
    theirs.save_pretrained(tmp_path / "after")
    tree = json.loads((tmp_path / "after" / "tokenizer.json").read_bytes())
    assert None not in (tree["padding"], tree["truncation"])
    plain = Tokenizer.load(tmp_path / "before")
    bpe._tell_once.cache_clear()
    with caplog.at_level(logging.INFO):
        found, again = (Tokenizer.load(tmp_path / "after") for _ in range(2))
    (note,) = [record.getMessage() for record in caplog.records if "ignored" in record.getMessage()]
    assert note.startswith("ignored in the tokenizer: truncation and padding, which transformers left")
    text = "the attention of the gradient, the naïve transformer"
    assert found.encode(text) == again.encode(text) == plain.encode(text)
    assert (found.sha256, found.json_bytes) == (plain.sha256, plain.json_bytes)
    assert ReferenceEncoder(found.encoder_json).encode([text])[0].tolist() == plain.encode(text)
    found.write(tmp_path / "in")
    written = json.loads((tmp_path / "in" / "tokenizer.json").read_bytes())
    assert (written["padding"], written["truncation"]) == (None, None)
