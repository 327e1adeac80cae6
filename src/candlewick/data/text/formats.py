"""The format of a text file, by its name and its first bytes; what is not text is named with the fix.

.jsonl .ndjson .json .csv .tsv .parquet .arrow .feather     rows
all other names                                             text, if it is UTF-8
.gz .zst .bz2 .xz                                           after one of these names: compressed

A named file is read as its name says. In a folder or behind a pattern, a file whose first row lacks the column of
text, or whose first bytes show that it is damaged, is left out; a .json file is plain text then.
"""

import csv
import io
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from candlewick.data.text.chat import chat_columns, has_conversation
from candlewick.data.text.columns import column_names, require_columns
from candlewick.data.text.file_ranges import BOM, READ_ERRORS, Compression, Kind, TextFile, open_stream
from candlewick.data.text.reading import Reading
from candlewick.data.text.rows import Row, find_value
from candlewick.errors import DataError

HEAD_BYTES = 1 << 16
MAX_BAD_SHARE = 0.001
"""Of the bytes of a text that are no UTF-8, or zero. Text with more of them is in another encoding, or no text."""
MIN_BAD = 8  # fewer are never too many
COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
_ROWS: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "array",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
_MAGIC = {
    b"\x1f\x8b": ("compressed by gzip", "name it .gz"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "name it .zst"),
    b"BZh": ("compressed by bzip2", "name it .bz2"),
    b"\xfd7zXZ\x00": ("compressed by xz", "name it .xz"),
    b"PK\x03\x04": ("a zip archive", "unpack it"),
    b"PAR1": ("Parquet", "name it .parquet"),
    b"ARROW1": ("Arrow", "name it .arrow"),
    b"%PDF-": ("a PDF", "extract its text"),
}
_MARKS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_EMPTY = "empty", "give a file with text in it"
_TAIL_BYTES = 64
_CUT = object()
_LONGEST_WORD = 16  # of JSON that is no string: an escape, or most of a number
logger = logging.getLogger(__name__)


class NotText(Exception):
    """A file is not text in UTF-8: what it is instead, and the fix. Its name may promise that it is."""

    def __init__(self, what: str, fix: str, *, is_promised: bool = False) -> None:
        super().__init__(what)
        self.what, self.fix, self.is_promised = what, fix, is_promised


@dataclass
class LeftOut:
    """Counts by reason what is left out of a folder or a pattern; keeps the first file that promised text."""

    counts: Counter[str] = field(default_factory=Counter[str])
    _promised: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])

    def add(self, path: Path, error: NotText) -> None:
        """Count a file that is no text."""
        self.counts[error.what] += 1
        if error.is_promised:
            self._promised.setdefault(error.what, (str(path), error.fix))

    def fix(self, default: str) -> str:
        """Return the fix of the first file that promised text, or `default`."""
        return next((f"{path}: {fix}" for path, fix in self._promised.values()), default)

    def warn(self, source: str) -> None:
        """Log each reason why files that promised text are left out, with its first file."""
        for what, (path, fix) in self._promised.items():
            about = source, self.counts[what], what, path, fix
            logger.warning("%s: %d files are left out: %s, the first: %s (fix: %s)", *about)


def name_format(name: str, reading: Reading) -> tuple[Kind, Compression | None]:
    """Return the format that a name stands for; "array" of a .json, which may turn out to be something else."""
    if reading.format == "tokens":
        return "tokens", None
    path = Path(name.lower())
    compression = COMPRESSIONS.get(path.suffix)
    kind = _ROWS.get(Path(path.stem).suffix if compression else path.suffix)
    return kind or plain_kind(reading), compression


def describe_file(path: Path, name: str, reading: Reading, real: Path | None = None) -> TextFile:
    """Return a file under its name in the corpus, with the format that this stands for. Raises DataError.

    `real` is the path without links, if it is known.
    """
    if not os.access(path, os.R_OK):
        raise DataError(f"{path} cannot be read", "check its permissions")
    status, form = path.stat(), name_format(path.name, reading)
    limit = reading.max_text_bytes(status.st_size)
    real = real or path.resolve()
    file = TextFile(name, *form, status.st_size, real, status.st_mtime_ns, max_text_bytes=limit)
    index = real.with_suffix(".idx")
    if file.kind != "tokens" or index == real or not index.is_file():
        return file
    return replace(file, index=describe_file(index, index.name, reading, index))


def find_format(file: TextFile, reading: Reading, *, is_named: bool) -> TextFile:
    """Return a file of this disk with the format that its first bytes show. Raises NotText.

    One that was not named, but found in a folder or by a pattern, must show that its rows hold text.
    """
    if file.kind == "tokens":
        return file
    if not file.bytes:
        raise NotText(*_EMPTY)
    if file.kind in ("parquet", "arrow"):
        if file.compression is not None:
            raise NotText(f"{file.kind} compressed by {file.compression}", "decompress it", is_promised=True)
        if not is_named:
            _require_text_column(file, reading)
        return file
    head = _read_head(file)
    if problem := find_problem(head, reading):
        raise problem
    text, is_whole = head.removeprefix(BOM).decode(errors="ignore"), len(head) < HEAD_BYTES
    is_json = file.kind == "array"
    kind = _json_kind(text) if is_json else file.kind
    has_rows = kind not in ("text", "lines")
    problem = None
    if has_rows and not is_named:
        problem = _find_row_problem(text, kind, reading, is_json=is_json, is_whole=is_whole)
    if not has_rows or (problem and is_json):
        kind = plain_kind(reading)
    if reading.format == "chat" and kind not in ("jsonl", "array"):
        raise NotText("plain text or a table of texts, without chats", "give .jsonl, .json, .parquet or .arrow")
    if problem and not is_json:
        raise problem
    if kind == "array" and not (is_named or _ends_with_bracket(file, head)):
        raise NotText("JSON arrays that are cut", "get it again", is_promised=True)
    return replace(file, kind=kind)


def plain_kind(reading: Reading) -> Kind:
    """Return how plain text is read."""
    return "text" if reading.documents == "file" else "lines"


def find_problem(head: bytes, reading: Reading) -> NotText | None:
    """Return why the first bytes of a file are no text in UTF-8, or None."""
    if not head:
        return NotText(*_EMPTY)
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return _not_utf8(encoding)
    for magic, (what, fix) in _MAGIC.items():
        if head.startswith(magic):
            return NotText(what, fix)
    if zeros := head.count(0):
        # as half of the bytes of English text are in UTF-16, all of them at even places, or all at odd ones
        is_wide = zeros > len(head) // 5 and 20 * head[::2].count(0) not in range(zeros, 19 * zeros)
        return _not_utf8("UTF-16") if is_wide else NotText("binary", "give text")
    whole = head[:-4] if len(head) == HEAD_BYTES else head
    if reading.bad_utf8 != "skip" and count_bad(whole) > allowed_bad(len(head)):
        return _not_utf8("ENCODING", "in another encoding than UTF-8, perhaps WINDOWS-1252")
    return None


def count_bad(raw: bytes) -> int:
    """Return how many sequences of bytes are not UTF-8."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return raw.decode(errors="replace").count(REPLACEMENT) - raw.count(REPLACEMENT.encode())
    return 0


def allowed_bad(num_bytes: int) -> int:
    """Return how many bad sequences are accepted in a text of a size."""
    return max(MIN_BAD, int(num_bytes * MAX_BAD_SHARE))


def _not_utf8(encoding: str, what: str | None = None) -> NotText:
    return NotText(what or encoding, f"convert it: iconv -f {encoding} -t UTF-8 FILE > NEW_FILE")


def _json_kind(text: str) -> Kind:
    """Return what a .json file is: an array, a value in each line, or neither, then it is plain text."""
    begin = text.lstrip()[:1]
    if begin != "{":
        return "array" if begin == "[" else "text"
    try:
        _first_row(text, "jsonl")
    except (ValueError, RecursionError):
        return "text"
    return "jsonl"


def _find_row_problem(text: str, kind: Kind, reading: Reading, *, is_json: bool, is_whole: bool) -> NotText | None:
    """Return why the first row has no text, or no conversation; None if it has, or is cut."""
    try:
        row = _first_row(text, kind, is_whole=is_whole)
    except (
        ValueError,
        RecursionError,
    ):  # of a .json it shows that this is another language, of a .jsonl it is a bad row
        return NotText("not JSON", "fix it") if is_json else None
    if row is _CUT:
        return None
    columns = cast("Row", row) if isinstance(row, dict) else {}
    try:
        is_text = isinstance(find_value(columns, reading.field), str | None)
    except KeyError:
        is_text = False
    has_text = has_conversation(columns, reading.field) if reading.format == "chat" else is_text
    return None if has_text else _without_text(list(columns), reading)


def _first_row(text: str, kind: Kind, *, is_whole: bool = False) -> object:
    """Return the first row, of a table its columns, `_CUT` if it ends behind the text.

    Raises ValueError or RecursionError for what is no JSON.
    """
    if kind in ("csv", "tsv"):
        lines = io.StringIO(text, newline="\n")
        try:
            header = next(csv.reader(lines, delimiter="\t" if kind == "tsv" else ","), [])
        except csv.Error:
            header = []
        return dict.fromkeys((name.strip() for name in header), "")
    text = text.lstrip()
    text, end, _ = (text[1:].lstrip(), "", "") if kind == "array" else text.partition("\n")
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except json.JSONDecodeError as error:
        is_at_end = len(text) - error.pos < _LONGEST_WORD or error.msg.startswith("Unterminated string")
        if end or is_whole or not is_at_end:
            raise
        return _CUT


def _without_text(names: Sequence[str], reading: Reading) -> NotText:
    setting = "messages_field" if reading.format == "chat" else "text_field"
    fix = f"set data.{setting} to one of its columns: {', '.join(names)[:200] or 'there are none'}"
    return NotText(f"rows without {reading.field!r}", f"{fix}; or leave it out", is_promised=True)


def _require_text_column(file: TextFile, reading: Reading) -> None:
    """Raise NotText for a table that cannot be read, or lacks the column of text or conversations."""
    try:
        names = column_names(file)
    except DataError as error:
        raise NotText(f"damaged, or not {file.kind}", error.fix, is_promised=True) from None
    is_chat = reading.format == "chat"
    try:
        require_columns(file, chat_columns(names, reading.field) if is_chat else [reading.field])
    except DataError:
        raise _without_text(names, reading) from None


def _ends_with_bracket(file: TextFile, head: bytes) -> bool:
    """Return whether a JSON array ends, as far as that is seen without reading all of it."""
    if len(head) == HEAD_BYTES:
        if file.compression is not None:
            return True
        with file.path.open("rb") as stream:
            stream.seek(-_TAIL_BYTES, os.SEEK_END)
            head = stream.read()
    return head.rstrip().endswith(b"]")


def _read_head(file: TextFile) -> bytes:
    """Return the first bytes of a file, decompressed. Raises NotText if it cannot be read."""
    try:
        with closing(open_stream(file.path, file.compression)) as stream:
            return stream.read(HEAD_BYTES)
    except READ_ERRORS as error:
        what, fix = f"damaged, or not {file.compression}", f"get it again ({str(error)[:200]})"
        raise NotText(what, fix, is_promised=True) from None
