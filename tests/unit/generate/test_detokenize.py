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
        if text.is_stopped:
            return out
    return [*out, text.flush()]


@given(st.text())
def test_characters_come_one_by_one_and_whole(text):
    assert [piece for piece in pieces(text.encode(), decode) if piece] == list(text) or "\ufffd" in text


@given(st.one_of(st.binary(), st.text().map(str.encode)))
def test_joined_it_is_the_decoding_of_all(raw):
    assert "".join(pieces(raw, decode)) == decode(list(raw))


@given(st.lists(st.integers(0, 0xFFFF)))
def test_tokens_may_begin_and_end_inside_characters(tokens):
    assert "".join(pieces(tokens, decode_pairs)) == decode_pairs(tokens)


def test_half_a_character_waits_for_the_rest():
    assert pieces([0x61, 0xC3, 0xA9, 0xE2, 0x82], decode) == ["a", "", "é", "", "", "\ufffd"]


def test_no_token_is_decoded_again_after_its_text_is_out():
    seen: list[int] = []
    pieces(range(50), lambda ids: seen.append(len(ids)) or "x")
    assert max(seen) == 1


def test_it_stops_at_a_stop_token_and_gives_out_what_waits():
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
def test_a_stop_text_ends_it_wherever_tokens_end(text, stops, size):
    raw = text.encode()
    tokens = [raw[start : start + size] for start in range(0, len(raw), size)]
    out = pieces(tokens, lambda ids: b"".join(ids).decode(errors="replace"), stops=stops)
    assert "".join(out) == expected(text, stops)


@given(st.text("ab", max_size=20), STOPS)
def test_no_more_is_held_back_than_may_become_a_stop_text(text, stops):
    shown, stream = "", TextStream(decode, stops=stops)
    for number, byte in enumerate(text.encode(), start=1):
        shown += stream.push(byte)
        if stream.is_stopped:
            return
        held = text[len(shown) : number]
        assert not held or any(stop.startswith(held) for stop in stops)
        assert not any(stop.startswith(text[start:number]) for stop in stops for start in range(len(shown)))


@pytest.mark.parametrize(("stops", "out"), [(["abc", "b"], "xa"), (["bc", "abc"], "x"), (["c", "xabcd"], "xab")])
def test_the_stop_text_that_is_complete_first_counts_and_of_two_the_longer(stops, out):
    assert "".join(pieces([b"xabcd"], lambda ids: b"".join(ids).decode(), stops=stops)) == out
    assert "".join(pieces(b"xabcd", decode, stops=stops)) == out
