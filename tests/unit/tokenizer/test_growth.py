"""The bound on the growth of a text holds in the library."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from candlewick.tokenizer.growth import max_growth

SPACE = "\u2581"
PREPEND = {"type": "Prepend", "prepend": SPACE}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}


def replace(pattern: str, content: str) -> dict:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def normalize(steps: list[dict], text: str) -> str:
    for step in steps:
        if step["type"] == "Replace":
            known = normalizers.Replace(step["pattern"]["String"], step["content"])
        elif step["type"] == "Prepend":
            known = normalizers.Prepend(step["prepend"])
        else:
            known = getattr(normalizers, step["type"])()
        text = known.normalize_str(text)
    return text


@pytest.mark.parametrize(
    ("steps", "growth"),
    [
        ([], 1),
        ([{"type": "NFC"}], 1),
        ([REPLACE], 1),  # Gemma
        ([PREPEND, REPLACE], 2),  # Llama 2
        ([{"type": "NFKC"}, PREPEND, REPLACE], 2),
        ([PREPEND, REPLACE, {"type": "NFKC"}], 2),
        ([replace("\t", "<|tab|>"), replace("\n", "<n>")], 7),
        ([replace("a", "aa")] * 30, 2**30),
        ([replace("ab", "ba" * 4)], 4),
        ([replace("a", "b" * 5), replace("b", "a" * 5)], 25),
        ([replace("a", "A" * 8), {"type": "Lowercase"}] * 2, 64),
        ([replace("x", "\ufdfa"), {"type": "NFKD"}], 18),
    ],
)
def test_growth_of_known_steps(steps, growth):
    assert max_growth(steps) == growth


ALPHABET = "aAbe\u00e9\u0301\u0130\ufdfa "
STEPS = st.one_of(
    st.builds(replace, st.text(ALPHABET, min_size=1, max_size=2), st.text(ALPHABET, max_size=4)),
    st.builds(lambda text: {"type": "Prepend", "prepend": text}, st.text(ALPHABET, max_size=3)),
    st.sampled_from(["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Strip"]).map(
        lambda kind: {"type": kind}
    ),
)


@settings(deadline=None, max_examples=500)
@given(st.lists(STEPS, max_size=6), st.text(ALPHABET, min_size=1, max_size=6))
@example([replace("a", "e\u0301"), {"type": "NFC"}, replace("\u00e9", "a" * 4)] * 2, "a")
def test_no_text_grows_more_than_the_bound(steps, text):
    # a normal form of the text itself adds at most 17 characters to each, once
    assert len(normalize(steps, text)) <= 18 * len(text) * max_growth(steps)
    if steps and all(step["type"] in ("Replace", "Prepend", "Strip") for step in steps):
        assert len(normalize(steps, text)) <= len(text) * max_growth(steps)
