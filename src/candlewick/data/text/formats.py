"""The format of a text file, by its name and its first bytes; what is not text is named with the fix.

.jsonl .ndjson .json .csv .tsv .parquet .arrow .feather     rows; in a folder only if they have the column of text
all other names                                             text, if it is UTF-8
.gz .zst .bz2 .xz                                           after one of these names: compressed
"""

import csv
import json
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import cast

from candlewick.data.text.chat import chat_columns, has_conversation
from candlewick.data.text.columns import column_names
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


class NotText(Exception):
    """A file is not text in UTF-8: what it is instead, and the fix."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what, self.fix = what, fix


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
    return TextFile(name, *form, status.st_size, real, status.st_mtime_ns, max_text_bytes=limit)


def find_format(file: TextFile, reading: Reading, *, is_named: bool) -> TextFile:
    """Return a file of this disk with the format that its first bytes show. Raises NotText.

    A file that was not named, but lies in a folder, is plain text if it has rows without the right columns.
    """
    if file.kind == "tokens":
        if not (is_named or file.name.endswith(".bin")):
            raise NotText("no .bin", "name a file of tokens")
        return file
    if file.kind in ("parquet", "arrow"):
        if file.compression is not None:
            raise NotText(f"{file.kind} compressed by {file.compression}", "decompress it")
        if not (is_named or _has_column(column_names(file), reading)):
            raise NotText(f"tables without {reading.field!r}", "set data.text_field to the column with the text")
        return file
    head = _read_head(file)
    if problem := find_problem(head, reading):
        raise problem
    text = head.removeprefix(BOM).decode(errors="ignore")
    kind = _json_kind(text) if file.kind == "array" else file.kind
    if kind in ("text", "lines") or not (is_named or _has_text(text, kind, reading)):
        kind = plain_kind(reading)
    if reading.format == "chat" and kind not in ("jsonl", "array"):
        raise NotText("plain text or a table of texts, without chats", "give .jsonl, .json, .parquet or .arrow")
    return replace(file, kind=kind)


def plain_kind(reading: Reading) -> Kind:
    """Return how plain text is read."""
    return "text" if reading.documents == "file" else "lines"


def find_problem(head: bytes, reading: Reading) -> NotText | None:
    """Return why the first bytes of a file are no text in UTF-8, or None."""
    if not head:
        return NotText("empty", "give a file with text in it")
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
    text = text.lstrip()
    if text.startswith("["):
        return "array"
    line, end, _ = text.partition("\n")
    return "jsonl" if text.startswith("{") and (not end or isinstance(_parse(line), dict)) else "text"


def _has_text(text: str, kind: Kind, reading: Reading) -> bool:
    """Return whether the first row has the column of text, or a conversation."""
    if kind in ("csv", "tsv"):
        header = next(csv.reader([text.partition("\n")[0]], delimiter="\t" if kind == "tsv" else ","), [])
        return reading.format == "text" and reading.field in (name.strip() for name in header)
    row = _parse(text.lstrip().removeprefix("[") if kind == "array" else text.lstrip().partition("\n")[0])
    if not isinstance(row, dict) or reading.format == "chat":
        return row is None or (isinstance(row, dict) and has_conversation(cast("Row", row), reading.field))
    try:
        return isinstance(find_value(cast("Row", row), reading.field), str | None)
    except KeyError:
        return False


def _has_column(names: Sequence[str], reading: Reading) -> bool:
    if reading.format == "chat":
        return set(chat_columns(names, reading.field)) <= set(names)
    return reading.field in names or reading.field.partition(".")[0] in names


def _parse(text: str) -> object:
    """Return the first JSON value of a text, None if it is cut or wrong."""
    try:
        return json.JSONDecoder().raw_decode(text.lstrip())[0]
    except (ValueError, RecursionError):
        return None


def _read_head(file: TextFile) -> bytes:
    """Return the first bytes of a file, decompressed. Raises NotText if it cannot be read."""
    try:
        with closing(open_stream(file.path, file.compression)) as stream:
            return stream.read(HEAD_BYTES)
    except READ_ERRORS as error:
        raise NotText(f"damaged, or not {file.compression}", f"get it again ({str(error)[:200]})") from None
