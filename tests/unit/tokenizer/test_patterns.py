"""Known pre-tokenizers cut text as the library does, and not where a long document is cut."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests import foreign
from tokenizers import Tokenizer as RustTokenizer

from candlewick.data.text.file_ranges import _SAFE_CUTS
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.check import validate_tokenizer
from candlewick.tokenizer.encoder import make_encoder
from candlewick.tokenizer.patterns import PATTERNS, find_pattern

# as in the files of GPT-4o, Mistral Nemo, Qwen 3.5 and DeepSeek V3, in one piece
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)
REGEXES = {
    "qwen2": (foreign.QWEN2,),
    "cl100k": (foreign.LLAMA3,),
    "o200k": (O200K,),
    "tekken": (TEKKEN,),
    "qwen35": (QWEN35,),
    "thousands+cjk+deepseek": DEEPSEEK,
}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
ODD = (
    "aB'\u00e9e\u0301\u0130\u01c5\u02b0\u65e5\u3042\u0e44\u0663\u00bd12 /!_.-\t\n\r\x0b\x1c\x85\xa0\u2028\0\ufeff"
    "\U0001f44d"
)


def splits(*regexes: str) -> list[dict]:
    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    return [split | {"pattern": {"Regex": regex}} for regex in regexes]


def byte_tokenizer(*steps: dict) -> dict:
    """A tokenizer of bytes with these steps before the bytes."""
    tree = json.loads(foreign.candle(alphabet=True).to_str())
    tree["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*steps, BYTES]}
    return tree


@pytest.mark.parametrize("name", REGEXES)
def test_patterns_of_the_hub_are_known_to_the_letter(name):
    regexes = REGEXES[name]
    assert find_pattern([*splits(*regexes), BYTES], is_byte_level=True) == name
    assert find_pattern([*splits(*regexes[:-1], regexes[-1] + "|x"), BYTES], is_byte_level=True) is None


@pytest.mark.parametrize("name", REGEXES)
def test_tokenizers_with_patterns_of_the_hub_give_the_ids_of_the_library(name, odd_texts):
    tree = byte_tokenizer(*splits(*REGEXES[name]))
    rust, ours = RustTokenizer.from_str(json.dumps(tree)), Tokenizer(json.dumps(tree).encode())
    rust.encode_special_tokens = True
    assert ours.pattern == name
    texts = [*odd_texts(5, 2000), "HelloWORLD's iPhone\u02b0 a!\n//b 12345\u4e00abc"]
    for text in texts:
        assert ours.encode(text) == rust.encode(text, add_special_tokens=False).ids
        assert ours.decode(ours.encode(text)) == text
    ids = make_encoder(ours.encoder_json).encode(texts)[0].tolist()  # the fast one, if it is right
    assert ids == [i for text in texts for i in ours.encode(text)]


RUSTS = {name: RustTokenizer.from_str(json.dumps(byte_tokenizer(*splits(*REGEXES[name])))) for name in REGEXES}


@pytest.mark.parametrize("name", REGEXES)
@settings(deadline=None, max_examples=300)
@given(text=st.text(st.sampled_from(ODD) | st.characters(codec="utf-8"), min_size=2, max_size=30))
@example(text="a!\n/b !\n//\n/ c")
@example(text="1234 5\n\n6 \n x\n\t\ny")
@example(text="a \u0301b\n\u0301c \u200d!\nd")
def test_a_document_keeps_its_ids_where_it_is_cut(name, text):
    pre_tokenizer, raw = RUSTS[name].pre_tokenizer, text.encode()

    def pieces(part: bytes) -> list[str]:
        return [piece for piece, _ in pre_tokenizer.pre_tokenize_str(part.decode())]

    for cut in sorted({match.start() for pattern in _SAFE_CUTS for match in pattern.finditer(raw)}):
        assert pieces(raw[:cut]) + pieces(raw[cut:]) == pieces(raw)


def test_the_pre_tokenizer_of_gemma_cuts_nothing():
    tree = json.loads(foreign.llama2().to_str())
    tree["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    plain = Tokenizer(json.dumps(tree).encode())
    step = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    found = Tokenizer(json.dumps(tree | {"pre_tokenizer": step}).encode())
    assert (found.pattern, plain.pattern) == ("none", "none")
    for text in foreign.texts(3, 20):
        assert found.encode(text) == plain.encode(text)
    tree = byte_tokenizer() | {"pre_tokenizer": step}
    assert find_pattern([step, BYTES], is_byte_level=True) is None
    assert validate_tokenizer(byte_tokenizer(), "it").pattern == "none"


def test_our_own_pattern_is_qwen2s():
    assert PATTERNS["qwen2"] == foreign.QWEN2
