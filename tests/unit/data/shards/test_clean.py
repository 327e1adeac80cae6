"""Cleaning rules of text, and the counts of dropped lines and characters."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from candlewick.data.shards.clean import Cleaning, CleaningReport, clean


def cleaned(text: str, **settings) -> tuple[str | None, CleaningReport]:
    report = CleaningReport()
    return clean(text, Cleaning(**settings), report), report


def test_clean_applies_the_rules_of_transformer_candle():
    text = "  A line\x00 that   is long enough. \r\nshort\n\n\n\tAnother\u00a0line, long enough.  \n \n"
    result, report = cleaned(text)
    assert result == "A line that is long enough.\n\nAnother line, long enough."
    assert (report.lines, report.short_lines, report.control_characters) == (3, 1, 1)
    assert (report.documents, report.empty_documents) == (1, 0)
    assert (report.bytes_before, report.bytes_after) == (len(text.encode()), len(result.encode()))


def test_clean_rules_can_be_switched_off():
    assert cleaned("a\x01b  c", min_line_bytes=0, drop_control=False, collapse_spaces=False)[0] == "a\x01b  c"
    assert cleaned("tiny", min_line_bytes=0)[0] == "tiny"
    assert cleaned("tiny")[0] is None


def test_min_line_bytes_counts_bytes_and_not_characters():
    assert cleaned("äöüäö")[0] == "äöüäö"  # 10 bytes
    assert cleaned("äöüä")[0] is None


def test_clean_drops_a_document_without_remaining_lines():
    result, report = cleaned("short\n\x00\n")
    assert result is None
    assert (report.empty_documents, report.bytes_after) == (1, 0)
    assert cleaned("")[0] is None


@given(st.text(alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from(" \t\n\r\x00\x85"))))
def test_clean_is_idempotent(text):
    result, report = cleaned(text)
    assert report.short_lines <= report.lines
    if result is None:
        return
    assert not any(unicodedata.category(char) == "Cc" for char in result.replace("\n", ""))
    for line in result.split("\n"):
        assert line == " ".join(line.split())
        assert not line or len(line.encode()) >= 10
    assert "\n\n\n" not in result
    assert cleaned(result)[0] == result
