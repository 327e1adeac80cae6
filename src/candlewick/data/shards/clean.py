r"""Cleaning removes noise from a document and counts all that it drops.

each line    control characters out, runs of white space to one space, none at the ends
short lines  of fewer than `min_line_bytes` bytes of UTF-8: out; blank lines stay as the ends of paragraphs
paragraphs   one blank line between two of them, none at the ends of a document
documents    that are empty then: out
"""

import re
from dataclasses import dataclass

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line end
_SPACES = re.compile(r"\s+")
_LINE_ENDS = re.compile(r"\r\n|[\r\n\x0b\x0c\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Cleaning:
    """The rules of cleaning."""

    min_line_bytes: int = 10  # shorter lines are dropped; 0: none
    drop_control: bool = True
    collapse_spaces: bool = True


@dataclass(slots=True)
class CleaningReport:
    """Counts of the text that was read and of the text that was dropped."""

    documents: int = 0
    empty_documents: int = 0  # dropped
    lines: int = 0  # not blank
    short_lines: int = 0  # dropped
    control_characters: int = 0  # dropped
    bytes_before: int = 0
    bytes_after: int = 0


def clean(text: str, cleaning: Cleaning, report: CleaningReport) -> str | None:
    """Return the cleaned document, or None if it is empty then. Counts in `report`."""
    report.documents += 1
    report.bytes_before += len(text.encode())
    lines: list[str] = []
    for raw in _LINE_ENDS.split(text):
        line = raw
        if cleaning.drop_control:
            line, dropped = _CONTROL.subn("", line)
            report.control_characters += dropped
        line = (_SPACES.sub(" ", line) if cleaning.collapse_spaces else line).strip()
        if not line:
            if lines and lines[-1]:
                lines.append("")
            continue
        report.lines += 1
        if len(line.encode()) < cleaning.min_line_bytes:
            report.short_lines += 1
        else:
            lines.append(line)
    cleaned = "\n".join(lines).strip("\n")
    report.bytes_after += len(cleaned.encode())
    if not cleaned:
        report.empty_documents += 1
        return None
    return cleaned
