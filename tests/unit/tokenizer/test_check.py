"""What is refused and what a file says; test_bpe.py has the refusals one by one, through `Tokenizer`."""

import json

import pytest
from tests import foreign

from candlewick.errors import TokenizerError
from candlewick.tokenizer.check import (
    BYTE_OF,
    find_steps,
    load_rust,
    parse_object,
    tokenizers_errors,
    validate_tokenizer,
    without_prefix,
)


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
def test_what_a_file_says(kind, pattern, is_byte_level, adds_space):
    facts = validate_tokenizer(tree_of(kind), "it")
    assert (facts.pattern, facts.is_byte_level, facts.adds_space) == (pattern, is_byte_level, adds_space)


def test_digits_one_by_one_before_the_pattern_of_gpt2_are_known():
    tree = tree_of("candle_plain")
    digits = {"type": "Digits", "individual_digits": True}
    tree["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, tree["pre_tokenizer"]]}
    assert validate_tokenizer(tree, "it").pattern == "digits+gpt2"
    del tree["pre_tokenizer"]["pretokenizers"][1]["use_regex"]  # as older versions wrote it
    assert validate_tokenizer(tree, "it").pattern == "digits+gpt2"


def test_the_table_of_bytes_is_the_librarys():
    rust = foreign.candle(alphabet=True, add_prefix_space=False)
    for byte in range(128):
        ((token, _),) = rust.pre_tokenizer.pre_tokenize_str(chr(byte))
        assert BYTE_OF[token] == byte
    assert sorted(BYTE_OF.values()) == list(range(256))


@pytest.mark.parametrize("kind", foreign.KINDS)
def test_without_a_prefix_a_tree_changes_nothing_else(kind):
    tree = tree_of(kind)
    plain = without_prefix(tree)
    assert without_prefix(plain) == plain
    assert (plain == tree) == (not validate_tokenizer(tree, "it").adds_space)
    assert {name: part for name, part in plain.items() if part != tree[name]}.keys() <= {
        "pre_tokenizer",
        "normalizer",
    }


def test_a_metaspace_of_an_older_version_loses_its_prefix_too():
    tree = {"pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "add_prefix_space": True}}
    step = find_steps(without_prefix(tree), "pre_tokenizer")[0]
    assert isinstance(step, dict)
    assert step["add_prefix_space"] is False


def test_errors_of_the_library_and_panics_name_the_file():
    for error in (ValueError("bad"), type("Panic", (BaseException,), {})("bad")):
        with pytest.raises(TokenizerError, match="it is not a tokenizer: bad"), tokenizers_errors("it"):
            raise error
    for error in (KeyboardInterrupt(), MemoryError(), TokenizerError("as it is", "leave it")):
        with pytest.raises(type(error)), tokenizers_errors("it"):
            raise error


def test_special_tokens_are_text_in_what_is_loaded():
    rust = load_rust(tree_of("candle_full"), "it")
    assert 1 not in rust.encode("<bos>", add_special_tokens=False).ids


def test_only_an_object_is_read():
    assert parse_object(b'{"a": 1}', "it") == {"a": 1}
    with pytest.raises(TokenizerError, match="it is not valid JSON"):
        parse_object(b"{", "it")
