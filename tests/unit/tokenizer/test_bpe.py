import hashlib
import json
import logging

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests import foreign

from candlewick.errors import TokenizerError
from candlewick.tokenizer import bpe, check, files
from candlewick.tokenizer.bpe import Tokenizer, surrogate_error
from candlewick.tokenizer.encoder import ReferenceEncoder
from candlewick.tokenizer.special import DELIMITER, PADDING


@pytest.fixture
def tree(tokenizer) -> dict:
    """The content of a tokenizer.json, to be spoiled."""
    return json.loads(tokenizer.json_bytes)


def refusal(tree_or_bytes) -> str:
    content = tree_or_bytes if isinstance(tree_or_bytes, bytes) else json.dumps(tree_or_bytes).encode()
    with pytest.raises(TokenizerError) as caught:
        Tokenizer(content, "somewhere/tokenizer.json")
    message = str(caught.value)
    assert message.startswith("somewhere/tokenizer.json ")
    assert len(message) < 500
    assert "\n" not in message
    return message


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8")))
@example("<|endoftext|><|padding|>")
@example("e\u0301 \r\n\u2028 \ufeff\0 \U0010ffff")
@example("a" * 10_000 + " " * 10_000 + "\n" * 10_000)
def test_every_text_comes_back_as_it_was(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8")))
@example("<|endoftext|>")
def test_text_never_becomes_a_special_token(tokenizer, text):
    assert not {tokenizer.delimiter_id, tokenizer.padding_id} & set(tokenizer.encode(text + DELIMITER + PADDING))


def test_the_special_tokens_come_first(tokenizer):
    assert (tokenizer.delimiter_id, tokenizer.padding_id) == (0, 1)
    assert tokenizer.pattern == "qwen2"
    assert tokenizer.vocab_size == 350


def test_special_tokens_are_shown_when_asked_for(tokenizer):
    ids = [0, *tokenizer.encode("hi"), 1]
    assert tokenizer.decode(ids) == "hi"
    assert tokenizer.decode(ids, skip_special=False) == "<|endoftext|>hi<|padding|>"
    assert tokenizer.token_bytes(0) == DELIMITER.encode()


def test_half_a_character_is_shown_as_replacement(tokenizer):
    first = tokenizer.encode("\U0001f600")[0]
    assert tokenizer.decode([first]) == "\ufffd"


@pytest.mark.parametrize("wrong", [-1, 350, 1 << 70])
def test_an_id_that_is_no_token_is_refused(tokenizer, wrong):
    with pytest.raises(TokenizerError, match=f"there is no token {wrong} .*ids are 0 to 349"):
        tokenizer.decode([3, wrong])


def test_half_a_surrogate_pair_is_refused_with_its_place(tokenizer):
    with pytest.raises(TokenizerError, match=r"the text has half a surrogate pair \(U\+D800\) at character 2"):
        tokenizer.encode("ab\ud800")
    assert "text 1 has half a surrogate pair (U+DFFF) at character 0" in str(surrogate_error(["a", "\udfff"]))
    assert surrogate_error(["a"]).problem == "the input is not text"


def test_digits_are_never_merged_and_words_never_across_spaces(tokenizer):
    tokens = [tokenizer.token_bytes(i) for i in range(2, tokenizer.vocab_size)]
    assert not [token for token in tokens if len(token) > 1 and set(token) & set(b"0123456789")]
    assert not [token for token in tokens if b" " in token.strip(b" ") and token.strip()]


def test_writing_and_loading_keeps_everything(tokenizer, tmp_path):
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


@pytest.mark.parametrize(
    ("pattern", "pre_tokenizer"),
    [
        ("gpt2", {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}),
        (
            "cl100k",
            {
                "type": "Sequence",
                "pretokenizers": [
                    {
                        "type": "Split",
                        "pattern": {"Regex": check.PATTERNS["cl100k"]},
                        "behavior": "Isolated",
                        "invert": False,
                    },
                    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
                ],
            },
        ),
    ],
)
def test_other_known_patterns_are_read_too(tree, pattern, pre_tokenizer):
    tree["pre_tokenizer"] = pre_tokenizer
    tree["post_processor"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    found = Tokenizer(json.dumps(tree).encode())
    assert found.pattern == pattern
    assert found.decode(found.encode("it's 1234 日本\n")) == "it's 1234 日本\n"


def put(*path_and_value):
    """A change of one place of a tree."""
    *path, name, value = path_and_value

    def change(tree):
        for part in path:
            tree = tree[part]
        tree[name] = value

    return change


SPLIT = ("pre_tokenizer", "pretokenizers", 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("normalizer", {"type": "Precompiled"}), "its normalizer is none of Lowercase, NFC,"),
        (put("normalizer", {"type": "Replace", "pattern": {"Regex": "(a|a)*$"}, "content": ""}), "its normalizer"),
        (put("normalizer", {"type": "Prepend", "prepend": "x" * 2000}), "its normalizer is none of"),
        (put("normalizer", {"type": ["NFC"]}), "its normalizer is none of"),
        (put("normalizer", {"type": "Sequence"}), "its normalizer is none of"),
        (put("truncation", {"max_length": 3}), "it truncates or pads"),
        (put("padding", {"strategy": "BatchLongest"}), "it truncates or pads"),
        (put("post_processor", {"type": "TemplateProcessing"}), "is not a tokenizer: "),
        (
            put("post_processor", {"type": "RobertaProcessing"}),
            "its post_processor is none of ByteLevel, Template",
        ),
        (put("decoder", None), "its decoder is not ByteLevel"),
        (put("decoder", {"type": "Replace", "pattern": {"Regex": "x"}, "content": ""}), "its decoder is not"),
        (put("decoder", {"type": "Fuse"}), "its pre-tokenizer is none of"),
        (put("pre_tokenizer", None), "its pre-tokenizer is none of qwen2, cl100k, gpt2"),
        (put(*SPLIT, "pattern", {"Regex": "(a|a)*$"}), "its pre-tokenizer is none of"),
        (put(*SPLIT, "behavior", "Removed"), "its pre-tokenizer is none of"),
        (put(*SPLIT, "invert", True), "its pre-tokenizer is none of"),
        (put("pre_tokenizer", "pretokenizers", 1, "type", "Metaspace"), "its pre-tokenizer is none of"),
        (put("pre_tokenizer", {"type": "Digits", "individual_digits": True}), "its pre-tokenizer is none of"),
        (put("model", "type", "WordPiece"), "its model is not BPE"),
        (put("model", None), "its model is not BPE"),
        (put("model", "dropout", "often"), "its dropout is no number"),
        (put("model", "unk_token", "<nowhere>"), "its unk_token is not in its vocabulary"),
        (put("model", "unk_token", []), "its unk_token is not in its vocabulary"),
        (put("model", "end_of_word_suffix", "</w>"), "its model sets end_of_word_suffix"),
        (put("model", "vocab", []), "it has no vocabulary or no merges"),
        (put("model", "merges", None), "it has no vocabulary or no merges"),
        (put("added_tokens", None), "it has no added tokens"),
        (put("added_tokens", ["x"]), "the added token x is not special"),
        (put("added_tokens", 0, "special", False), "it has no document delimiter <|endoftext|>"),
        (
            lambda tree: tree["added_tokens"][1].update(special=False, lstrip=True),
            "is not special, and takes spaces with it",
        ),
        (
            lambda tree: tree["added_tokens"].append(tree["added_tokens"][1] | {"content": "<x>", "id": 352}),
            "'<x>' has id 352, which the library reads as 350",
        ),
        (put("added_tokens", 0, "id", 3), "'<|endoftext|>' has two ids"),
        (put("model", "vocab", PADDING, 500), "has two ids"),
        (
            lambda tree: tree["model"]["vocab"].update(new=702),
            "its 351 ids go up to 702: more than half are missing",
        ),
        (lambda tree: tree["model"]["vocab"].update(new=7), "each once"),
        (lambda tree: tree["model"]["vocab"].update(new=-1), "each once"),
        (lambda tree: tree["model"]["vocab"].update(new="350"), "each once"),
        (lambda tree: tree["model"]["vocab"].update(new=True), "each once"),
        (lambda tree: tree["model"]["merges"].append(["qq", "zz"]), "is not a tokenizer: "),
        (lambda tree: tree["model"]["merges"].append(3), "is not a tokenizer: "),
        (put("version", "9.0"), "is not a tokenizer: "),
    ],
)
def test_what_this_program_cannot_use_is_refused(tree, change, said):
    change(tree)
    assert said in refusal(tree)


def test_a_tokenizer_without_delimiter_is_refused(tree):
    text = json.dumps(tree).replace(DELIMITER, "<s>")
    said = refusal(text.encode())
    assert (
        "no document delimiter <|endoftext|>, and neither its template (none) nor its special tokens (<s>, "
        in said
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
        (b"[]", "is not a tokenizer: it holds no object"),
        (b"{}", "its decoder is not ByteLevel"),
        (b"[" * 200_000, "is not valid JSON"),
        (b'{"a": 1, "a": 2}', "is not valid JSON: a key is given twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not valid JSON"),
    ],
)
def test_what_is_no_tokenizer_json_is_refused(content, said):
    assert said in refusal(content)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TokenizerError, match="nothing does not exist .*give a tokenizer.json or its folder"):
        Tokenizer.load(tmp_path / "nothing")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json does not exist"):
        Tokenizer.load(tmp_path)


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 1 << 20)
    (tmp_path / "tokenizer.json").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(TokenizerError, match="is larger than 1 MiB"):
        Tokenizer.load(tmp_path)


class Panic(BaseException):
    """What a panic in Rust looks like from Python."""


def test_a_panic_in_rust_is_an_error_like_others(tokenizer, monkeypatch):
    def panic(text):
        raise Panic("index out of bounds")

    monkeypatch.setattr(check, "RustTokenizer", type("Rust", (), {"from_str": staticmethod(panic)}))
    assert "is not a tokenizer: index out of bounds" in refusal(tokenizer.json_bytes)


def test_an_interrupt_while_loading_is_not_swallowed(tokenizer, monkeypatch):
    def interrupt(text):
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "RustTokenizer", type("Rust", (), {"from_str": staticmethod(interrupt)}))
    with pytest.raises(KeyboardInterrupt):
        Tokenizer(tokenizer.json_bytes)


@settings(deadline=None)
@given(st.data())
def test_no_change_of_a_value_ends_in_a_traceback(tokenizer, data):
    tree = json.loads(tokenizer.json_bytes)
    node, depth = tree, 0
    while depth < 4 and isinstance(node, dict | list) and node:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        parent, node, depth = node, node[key], depth + 1
    parent[key] = data.draw(st.none() | st.integers() | st.text(max_size=3) | st.just([]) | st.just({}))
    try:
        found = Tokenizer(json.dumps(tree).encode())
    except TokenizerError:
        return
    if not found.changes:
        assert found.decode(found.encode("any text")) == "any text"


def test_transformers_reads_the_same_ids(tokenizer, tmp_path, odd_texts, monkeypatch):
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


@pytest.mark.parametrize("part", ["model", "decoder", "post_processor", "pre_tokenizer", "normalizer"])
@pytest.mark.parametrize("name", ["BPE", "ByteLevel"])
def test_a_part_that_is_only_a_name_is_refused(tokenizer, part, name):
    with pytest.raises(TokenizerError):
        Tokenizer(json.dumps(json.loads(tokenizer.json_bytes) | {part: name}).encode())


@settings(deadline=None)
@given(st.lists(st.integers(0, 349)))
def test_a_part_of_a_text_is_decoded_as_a_text_alone(tokenizer, ids):
    assert tokenizer.decode_continuation(ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", foreign.KINDS)
def test_tokenizers_of_others_load_unchanged_with_the_ids_of_the_library(kind, tmp_path, odd_texts):
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
def test_what_is_written_of_others_has_the_same_ids_and_roles(kind, tmp_path, odd_texts, monkeypatch):
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
def test_what_begins_and_ends_a_document_of_others(kind, delimiter, end, stops, padding, missing, tmp_path):
    rust = foreign.write(kind, tmp_path)
    found = Tokenizer.load(tmp_path)

    def id_of(token):
        return None if token is None else rust.token_to_id(token)

    assert (found.delimiter, found.delimiter_id) == (delimiter, id_of(delimiter))
    assert (found.end_id, found.padding_id) == (id_of(end), id_of(padding))
    assert found.stop_ids == tuple(map(id_of, stops))
    assert (found.missing_bytes > 0) is missing
    assert {delimiter, *([end] if end else [])} <= found.special_tokens.keys()


def test_our_own_convention(tokenizer):
    assert (tokenizer.end_id, tokenizer.stop_ids, tokenizer.missing_bytes) == (None, (0,), 0)
    assert not tokenizer.changes
    assert tokenizer.changes == ()
    assert tokenizer.continuation_json is None
    assert tokenizer.encoder_json is tokenizer.json_bytes
    assert tokenizer.with_chat_tokens().stop_ids == (351, 0)


def test_a_lossy_tokenizer_warns_once_with_the_remedy(tmp_path, caplog):
    foreign.write("candle", tmp_path)
    bpe._warn_once.cache_clear()
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            found = Tokenizer.load(tmp_path)
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert f"{found.missing_bytes} of the 256 bytes are dropped" in record.getMessage()
    assert "candlewick tokenizer train" in record.getMessage()
    vocab = json.loads(found.json_bytes)["model"]["vocab"]
    assert found.missing_bytes == 256 - sum(len(token) == 1 for token in vocab)
    assert found.decode(found.encode("the \U0001f600 of")) == " the  of"


def test_bytes_that_become_the_unknown_token_are_named(tmp_path):
    tree = json.loads(foreign.llama2().to_str())
    tree["model"]["byte_fallback"] = False
    found = Tokenizer(json.dumps(tree).encode())
    assert 128 <= found.missing_bytes < 256
    assert found.changes[0] == f"{found.missing_bytes} of the 256 bytes become <unk>"
    assert found.changes


@pytest.mark.parametrize("kind", ["candle", "candle_full", "llama2", "llama2_metaspace"])
def test_a_text_that_goes_on_gets_no_space_before_it(kind, tmp_path):
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
def test_the_parts_of_a_written_text_are_the_text(kind, tmp_path):
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


def test_dropout_is_kept_in_the_file_and_encodes_without_chance(tmp_path):
    rust = foreign.candle(alphabet=True)
    expected = rust.encode("the attention of the gradient", add_special_tokens=False).ids
    rust.model.dropout = 0.5
    found = Tokenizer(rust.to_str().encode())
    assert json.loads(found.json_bytes)["model"]["dropout"] == 0.5
    assert all(found.encode("the attention of the gradient") == expected for _ in range(20))
    assert ReferenceEncoder(found.encoder_json).encode(["the attention of the gradient"])[0].tolist() == expected


def test_ids_without_a_token_are_allowed_and_stand_for_nothing(tree):
    tree["model"]["vocab"]["new"] = 400
    found = Tokenizer(json.dumps(tree).encode())
    assert found.vocab_size == 401
    assert found.decode([360, 400]) == "new"
    assert (found.token_bytes(360), found.token_bytes(400)) == (b"", b"new")


def test_the_bytes_of_pieces(tmp_path):
    foreign.write("llama2", tmp_path)
    found = Tokenizer.load(tmp_path)
    text = "the naïve 日 \U0001f600"
    assert b"".join(map(found.token_bytes, found.encode(text))) == f" {text}".encode()


def test_chat_tokens_are_added_to_one_of_others_with_its_roles(tmp_path):
    rust = foreign.write("llama3", tmp_path)
    found = Tokenizer.load(tmp_path).with_chat_tokens()
    assert found.chat_ids == (rust.get_vocab_size(), rust.get_vocab_size() + 1)
    assert found.delimiter == "<|begin_of_text|>"
    assert found.roles.names["eos_token"] == "<|eot_id|>"
    assert found.with_chat_tokens() is found


def test_a_template_of_others_stays_until_chats_are_wanted(tmp_path):
    foreign.write("qwen3", tmp_path)
    found = Tokenizer.load(tmp_path)
    found.write(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["chat_template"] == "theirs"
    found.with_chat_tokens().write(tmp_path)
    assert "<|im_start|>" in json.loads((tmp_path / "tokenizer_config.json").read_text())["chat_template"]
