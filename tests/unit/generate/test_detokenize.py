import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlewick.generate.detokenize import TextStream


def decode(ids: list[int]) -> str:
    """One token per byte: the hardest case of a byte-level vocabulary."""
    return bytes(ids).decode("utf-8", errors="replace")


def decode_pairs(ids: list[int]) -> str:
    """Tokens of two bytes, which begin and end anywhere."""
    return b"".join(token.to_bytes(2, "little") for token in ids).decode("utf-8", errors="replace")


def pieces(tokens, decode, **settings) -> list[str]:
    """Everything that comes out, one piece per token, and the rest."""
    text = TextStream(decode, **settings)
    out = []
    for token in tokens:
        out.append(text.push(token))
        if text.stop:
            return out
    return [*out, text.flush()]


@given(st.text())
def test_text_stream_emits_complete_characters_one_by_one(text):
    assert [piece for piece in pieces(text.encode(), decode) if piece] == list(text) or "\ufffd" in text


@given(st.one_of(st.binary(), st.text().map(str.encode)))
def test_text_stream_joins_to_the_decoding_of_all_tokens(raw):
    assert "".join(pieces(raw, decode)) == decode(list(raw))


@given(st.lists(st.integers(0, 0xFFFF)))
def test_text_stream_accepts_tokens_that_divide_characters(tokens):
    assert "".join(pieces(tokens, decode_pairs)) == decode_pairs(tokens)


def test_text_stream_holds_half_a_character_until_the_rest():
    assert pieces([0x61, 0xC3, 0xA9, 0xE2, 0x82], decode) == ["a", "", "é", "", "", "\ufffd"]


def test_text_stream_decodes_no_emitted_token_again():
    seen: list[int] = []
    pieces(range(50), lambda ids: seen.append(len(ids)) or "x")
    assert max(seen) == 1


def test_text_stream_emits_held_text_at_a_stop_token():
    assert pieces([0x61, 0xC3, 9, 0x62], decode, stop_ids={9}) == ["a", "", "\ufffd"]
    assert pieces([0x61, 0x21, 9], decode, stop_ids={9}, stops=["!!"]) == ["a", "", "!"]


def expected(text: str, stops: list[str]) -> str:
    """Character by character: the text before the first stop text that is complete."""
    for end in range(1, len(text) + 1):
        whole = [stop for stop in stops if text[:end].endswith(stop)]
        if whole:
            return text[: end - max(map(len, whole))]
    return text


STOPS = st.lists(st.text("abé", min_size=1, max_size=4), max_size=3)


@given(st.text("abé", max_size=30), STOPS, st.integers(1, 5))
def test_text_stream_ends_before_a_stop_text_at_any_token_boundary(text, stops, size):
    raw = text.encode()
    tokens = [raw[start : start + size] for start in range(0, len(raw), size)]
    out = pieces(tokens, lambda ids: b"".join(ids).decode(errors="replace"), stops=stops)
    assert "".join(out) == expected(text, stops)


@given(st.text("ab", max_size=20), STOPS)
def test_text_stream_holds_only_a_prefix_of_a_stop_text(text, stops):
    shown, stream = "", TextStream(decode, stops=stops)
    for number, byte in enumerate(text.encode(), start=1):
        shown += stream.push(byte)
        if stream.stop:
            return
        held = text[len(shown) : number]
        assert not held or any(stop.startswith(held) for stop in stops)
        assert not any(stop.startswith(text[start:number]) for stop in stops for start in range(len(shown)))


@pytest.mark.parametrize(("stops", "out"), [(["abc", "b"], "xa"), (["bc", "abc"], "x"), (["c", "xabcd"], "xab")])
def test_text_stream_ends_at_the_first_complete_and_longest_stop_text(stops, out):
    assert "".join(pieces([b"xabcd"], lambda ids: b"".join(ids).decode(), stops=stops)) == out
    assert "".join(pieces(b"xabcd", decode, stops=stops)) == out
