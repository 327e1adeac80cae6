from hypothesis import given
from hypothesis import strategies as st

from candlewick.generate.detokenize import detokenize


def decode(ids: list[int]) -> str:
    """One token per byte: the hardest case of a byte-level vocabulary."""
    return bytes(ids).decode("utf-8", errors="replace")


def decode_pairs(ids: list[int]) -> str:
    """Tokens of two bytes, which begin and end anywhere."""
    return b"".join(token.to_bytes(2, "little") for token in ids).decode("utf-8", errors="replace")


@given(st.text())
def test_characters_come_one_by_one_and_whole(text):
    assert list(detokenize(text.encode(), decode)) == list(text) or "\ufffd" in text


@given(st.one_of(st.binary(), st.text().map(str.encode)))
def test_joined_it_is_the_decoding_of_all(raw):
    assert "".join(detokenize(raw, decode)) == decode(list(raw))


@given(st.lists(st.integers(0, 0xFFFF)))
def test_tokens_may_begin_and_end_inside_characters(tokens):
    assert "".join(detokenize(tokens, decode_pairs)) == decode_pairs(tokens)


def test_half_a_character_waits_for_the_rest():
    assert list(detokenize([0x61, 0xC3, 0xA9, 0xE2, 0x82], decode)) == ["a", "é", "\ufffd"]


def test_tokens_without_text_yield_nothing():
    assert list(detokenize([0, 0], lambda ids: "")) == []


def test_no_token_is_decoded_again_after_its_text_is_out():
    seen: list[int] = []
    list(detokenize("aé" * 50 + "b", lambda ids: seen.append(len(ids)) or "x"))
    assert max(seen) == 1
