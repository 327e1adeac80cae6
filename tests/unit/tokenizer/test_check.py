"""Checking a tokenizer.json: refusals, and the properties that are read from it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import foreign

from candlewick.errors import TokenizerError
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.check import (
    BYTE_OF,
    find_steps,
    load_rust,
    parse_object,
    tokenizers_errors,
    validate_tokenizer,
    without_prefix,
)
from candlewick.tokenizer.encoder import FastEncoder, ReferenceEncoder, make_encoder
from candlewick.tokenizer.patterns import PATTERNS
from candlewick.tokenizer.special import DELIMITER, PADDING
from candlewick.tokenizer.train import train_tokenizer


def tree_of(kind: str) -> dict:
    return json.loads(foreign.KINDS[kind]().to_str())


@pytest.mark.parametrize(
    ("kind", "pattern", "is_byte_level", "adds_space"),
    [
        ("candle", "gpt2", True, True),
        ("candle_plain", "gpt2", True, False),
        ("candle_no_regex", "none", True, True),
        ("qwen2", "qwen2", True, False),
        ("llama3", "cl100k", True, False),
        ("llama2", "none", False, True),
        ("llama2_metaspace", "metaspace", False, True),
    ],
)
def test_check_reads_pattern_byte_level_and_prefix_space(kind, pattern, is_byte_level, adds_space):
    facts = validate_tokenizer(tree_of(kind), "it")
    assert (facts.pattern, facts.is_byte_level, facts.adds_space) == (pattern, is_byte_level, adds_space)


def test_check_knows_single_digits_before_the_gpt2_pattern():
    tree = tree_of("candle_plain")
    digits = {"type": "Digits", "individual_digits": True}
    tree["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, tree["pre_tokenizer"]]}
    assert validate_tokenizer(tree, "it").pattern == "digits+gpt2"
    del tree["pre_tokenizer"]["pretokenizers"][1]["use_regex"]  # as older versions wrote it
    assert validate_tokenizer(tree, "it").pattern == "digits+gpt2"


def test_byte_table_equals_that_of_the_library():
    rust = foreign.candle(alphabet=True, add_prefix_space=False)
    for byte in range(128):
        ((token, _),) = rust.pre_tokenizer.pre_tokenize_str(chr(byte))
        assert BYTE_OF[token] == byte
    assert sorted(BYTE_OF.values()) == list(range(256))


@pytest.mark.parametrize("kind", foreign.KINDS)
def test_without_prefix_changes_only_the_prefix_space(kind):
    tree = tree_of(kind)
    plain = without_prefix(tree)
    assert without_prefix(plain) == plain
    assert (plain == tree) == (not validate_tokenizer(tree, "it").adds_space)
    assert {name: part for name, part in plain.items() if part != tree[name]}.keys() <= {
        "pre_tokenizer",
        "normalizer",
    }


def test_without_prefix_handles_metaspace_of_older_versions():
    tree = {"pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "add_prefix_space": True}}
    step = find_steps(without_prefix(tree), "pre_tokenizer")[0]
    assert isinstance(step, dict)
    assert step["add_prefix_space"] is False


def test_library_errors_and_panics_name_the_file():
    for error in (ValueError("bad"), type("Panic", (BaseException,), {})("bad")):
        with pytest.raises(TokenizerError, match="it is not a tokenizer: bad"), tokenizers_errors("it"):
            raise error
    for error in (KeyboardInterrupt(), MemoryError(), TokenizerError("as it is", "leave it")):
        with pytest.raises(type(error)), tokenizers_errors("it"):
            raise error


def test_load_rust_encodes_special_tokens_as_text():
    rust = load_rust(tree_of("candle_full"), "it")
    assert 1 not in rust.encode("<bos>", add_special_tokens=False).ids


def test_parse_object_refuses_other_json():
    assert parse_object(b'{"a": 1}', "it") == {"a": 1}
    with pytest.raises(TokenizerError, match="it is not valid JSON"):
        parse_object(b"{", "it")


def refusal(tree_or_bytes) -> str:
    content = tree_or_bytes if isinstance(tree_or_bytes, bytes) else json.dumps(tree_or_bytes).encode()
    with pytest.raises(TokenizerError) as caught:
        Tokenizer(content, "somewhere/tokenizer.json")
    message = str(caught.value)
    assert message.startswith("somewhere/tokenizer.json ")
    assert len(message) < 500
    assert "\n" not in message
    return message


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
                        "pattern": {"Regex": PATTERNS["cl100k"]},
                        "behavior": "Isolated",
                        "invert": False,
                    },
                    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
                ],
            },
        ),
    ],
)
def test_tokenizers_with_other_known_patterns_are_read(tree, pattern, pre_tokenizer):
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


def doubled(text: str) -> dict:
    """A step that doubles a text."""
    return {"type": "Replace", "pattern": {"String": text}, "content": 2 * text}


def sequence(*steps: dict, of: str = "normalizers") -> dict:
    return {"type": "Sequence", of: list(steps)}


SPLIT = ("pre_tokenizer", "pretokenizers", 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("normalizer", {"type": "Precompiled"}), "its normalizer is none of Lowercase, NFC,"),
        (put("normalizer", {"type": "Replace", "pattern": {"Regex": "(a|a)*$"}, "content": ""}), "its normalizer"),
        (put("normalizer", {"type": "Prepend", "prepend": "x" * 2000}), "its normalizer is none of"),
        (put("normalizer", {"type": ["NFC"]}), "its normalizer is none of"),
        (put("normalizer", {"type": "Sequence"}), "its normalizer is none of"),
        (put("normalizer", {"type": "Replace", "pattern": {"String": ""}, "content": "b"}), "replaces nothing"),
        (put("normalizer", {"type": "Replace", "pattern": {"String": "a"}}), "its normalizer is none of"),
        (put("normalizer", {"type": "Replace", "pattern": "a", "content": "b"}), "its normalizer is none of"),
        (put("normalizer", {"type": "Prepend"}), "its normalizer is none of"),
        (put("normalizer", sequence(*[doubled("a")] * 30)), "makes 1.07e+09 characters of one, at most 8 are"),
        (put("normalizer", sequence(*[{"type": "NFC"}] * 33)), "its normalizer has 33 steps, at most 32 are read"),
        (put("decoder", sequence(*[doubled(" ")] * 5, of="decoders")), "its decoder makes 32 characters of one"),
        (put("post_processor", {"type": "TemplateProcessing"}), "is not a tokenizer: "),
        (put("post_processor", {"type": "RobertaProcessing"}), "is not a tokenizer: "),
        (put("post_processor", {"type": "Other"}), "its post_processor is none of BertProcessing, ByteLevel,"),
        (put("decoder", None), "its decoder is not ByteLevel"),
        (put("decoder", {"type": "Replace", "pattern": {"Regex": "x"}, "content": ""}), "its decoder is not"),
        (put("decoder", {"type": "Fuse"}), "its pre-tokenizer is none of"),
        (put("pre_tokenizer", None), "its pre-tokenizer is none of qwen2, cl100k, o200k"),
        (put(*SPLIT, "pattern", {"Regex": "(a|a)*$"}), "its pre-tokenizer is none of"),
        (put(*SPLIT, "behavior", "Removed"), "its pre-tokenizer is none of"),
        (put(*SPLIT, "invert", True), "its pre-tokenizer is none of"),
        (put("pre_tokenizer", "pretokenizers", 1, "type", "Metaspace"), "its pre-tokenizer is none of"),
        (put("pre_tokenizer", {"type": "Digits", "individual_digits": True}), "its pre-tokenizer is none of"),
        (put("model", "type", "WordPiece"), "its model is not BPE"),
        (put("model", None), "its model is not BPE"),
        (put("model", "dropout", "often"), "its dropout is not a number"),
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
        (put("added_tokens", 0, "content", "x" * (1 << 20)), "have 1,048,587 characters, at most 1,048,576 are"),
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
def test_unsupported_tokenizer_json_is_refused_with_the_reason(tree, change, said):
    change(tree)
    assert said in refusal(tree)


def test_tokenizer_json_without_a_delimiter_is_refused(tree):
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
        (b'\xef\xbb\xbf{"a": 1}', "is not valid JSON: Unexpected UTF-8 BOM"),  # the encoders refuse it
        (b'{"a": NaN}', "is not valid JSON: NaN is no number of JSON"),
        (b'{"a": "\\uD800"}', "is not valid JSON: 'utf-8' codec can't encode character '\\ud800'"),
        (b'{"a": [' + b"0," * (5 << 20) + b"0]}", "has more than 4,194,304 values"),
        (b'{"a": [' + b"[[[0]]]," * (1 << 20) + b"0]}", "has more than 4,194,304 values"),
    ],
)
def test_malformed_tokenizer_json_is_refused(content, said):
    assert said in refusal(content)


class Panic(BaseException):
    """What a panic in Rust looks like from Python."""


def test_panic_of_the_rust_library_is_a_tokenizer_error(tokenizer, monkeypatch):
    def panic(text):
        raise Panic("index out of bounds")

    monkeypatch.setattr(
        "candlewick.tokenizer.check.RustTokenizer", type("Rust", (), {"from_str": staticmethod(panic)})
    )
    assert "is not a tokenizer: index out of bounds" in refusal(tokenizer.json_bytes)


class Panicking:
    """A tokenizer of the library that panics whatever is asked."""

    def __getattr__(self, name):
        def panic(*args, **options):
            raise Panic("index out of bounds: the len is 8 but the index is 8")

        return panic


def test_panic_while_encoding_or_decoding_is_a_tokenizer_error(tokenizer, monkeypatch):
    encoders = [FastEncoder(tokenizer.json_bytes), ReferenceEncoder(tokenizer.json_bytes)]
    broken = Tokenizer(tokenizer.json_bytes)
    for each in (broken, *encoders):
        monkeypatch.setattr(each, "_rust", Panicking())
    for call in (lambda: broken.encode("a"), *(lambda e=e: e.encode(["a"]) for e in encoders)):
        with pytest.raises(TokenizerError, match="the tokenizer fails with this text: index out of bounds"):
            call()
    with pytest.raises(TokenizerError, match="the tokenizer fails with these ids: index out of bounds"):
        broken.decode([3])


def test_panic_of_the_fast_encoder_leaves_the_reference(tokenizer, monkeypatch):
    package = type("fastokens", (), {"Tokenizer": type("Tokenizer", (), {"from_json_str": Panicking().load})})
    monkeypatch.setattr("candlewick.tokenizer.encoder.importlib.import_module", lambda name: package)
    assert isinstance(make_encoder(tokenizer.json_bytes), ReferenceEncoder)


def test_panic_while_training_is_a_tokenizer_error(monkeypatch):
    monkeypatch.setattr("candlewick.tokenizer.train.byte_level", lambda *args, **options: Panicking())
    with pytest.raises(TokenizerError, match="the tokenizer cannot be trained: index out of bounds"):
        train_tokenizer(["a"], vocab_size=300)


def test_interrupt_while_loading_is_raised(tokenizer, monkeypatch):
    def interrupt(text):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        "candlewick.tokenizer.check.RustTokenizer", type("Rust", (), {"from_str": staticmethod(interrupt)})
    )
    with pytest.raises(KeyboardInterrupt):
        Tokenizer(tokenizer.json_bytes)


@settings(deadline=None)
@given(st.data())
def test_changed_tokenizer_json_loads_or_raises_a_tokenizer_error(tokenizer, data):
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


@pytest.mark.parametrize("part", ["model", "decoder", "post_processor", "pre_tokenizer", "normalizer"])
@pytest.mark.parametrize("name", ["BPE", "ByteLevel"])
def test_tokenizer_json_part_without_settings_is_refused(tokenizer, part, name):
    with pytest.raises(TokenizerError):
        Tokenizer(json.dumps(json.loads(tokenizer.json_bytes) | {part: name}).encode())
