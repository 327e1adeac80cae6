"""Files that a stranger may give as text: valid ones of every format, damaged ones, bombs. Made from a number."""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda raw: gzip.compress(raw, 6, mtime=0),
    ".zst": lambda raw: pa.Codec("zstd").compress(raw, asbytes=True),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
_ALPHABET = 'abcdefg hij\n klm\t"{}[],:\\äß日本\U0001f56f\u2028'
_EXTENSIONS = (".txt", ".md", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", "")
_FILES_PER_BOMB = 149
_BOMB_BYTES, _BOMB_OF_ROWS_BYTES = 60 << 20, 2 << 20
_VALUE_BYTES = 6 << 20


class HostileFile(NamedTuple):
    """A file, the settings that it is read with, and how it came about."""

    name: str
    content: bytes
    settings: dict[str, Any]
    about: str


def make_file(number: int) -> HostileFile:
    """Return file number so and so of the campaign."""
    choose = random.Random(number)
    settings = {
        "format": choose.choice(("text", "text", "chat")),
        "documents": choose.choice(("file", "line")),
        "bad_utf8": choose.choice(("replace", "replace", "skip", "error")),
        "bad_rows": choose.choice(("error", "skip")),
        "text_field": choose.choice(("text", "text", "text", "a.b")),
    }
    if number % _FILES_PER_BOMB == _FILES_PER_BOMB - 1:
        name, content = _BOMBS[number // _FILES_PER_BOMB % len(_BOMBS)]()
        return HostileFile(name, content, settings | {"format": "text", "text_field": "text"}, f"bomb {name}")
    if choose.random() < 0.15:
        name, content = choose.choice(_ODD_FILES)(choose)
        return HostileFile(name, content, settings, f"odd {name}")
    extension = choose.choice(_EXTENSIONS)
    content = _valid(choose, extension, settings["format"] == "chat")
    damage = choose.choice(_DAMAGES)
    content = damage(choose, content)
    if choose.random() < 0.3:
        compression = choose.choice(list(_COMPRESS))
        content = _COMPRESS[compression](content)
        extension += compression
        if choose.random() < 0.4:
            damage = choose.choice(_DAMAGES)
            content = damage(choose, content)
    if choose.random() < 0.1:
        extension = choose.choice((*_EXTENSIONS, *_COMPRESS))  # of another format
    return HostileFile(f"a{extension}", content, settings, f"{damage.__name__.strip('_')} a{extension}")


def _texts(choose: random.Random) -> list[str]:
    return [
        "".join(choose.choices(_ALPHABET, k=choose.choice((0, 5, 60, 400)))) for _ in range(choose.randint(1, 40))
    ]


def _valid(choose: random.Random, extension: str, is_chat: bool) -> bytes:
    texts = _texts(choose)
    rows: list[dict[str, Any]] = [{"id": i, "text": text} for i, text in enumerate(texts)]
    if is_chat:
        rows = [
            {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text[:9]}]}
            for text in texts
        ]
    if extension == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if extension == ".json":
        return json.dumps(rows, indent=choose.choice((None, 1))).encode()
    if extension in (".csv", ".tsv"):
        stream = io.StringIO()
        writer = csv.writer(stream, "excel" if extension == ".csv" else "excel-tab")
        writer.writerows([["id", "text"], *([i, text] for i, text in enumerate(texts))])
        return stream.getvalue().encode()
    if extension in (".parquet", ".arrow"):
        return _table(choose, pa.Table.from_pylist(rows), extension)
    return "\n".join(texts).encode()


def _table(choose: random.Random, table: pa.Table, extension: str) -> bytes:
    buffer = io.BytesIO()
    if "text" in table.column_names:
        kind = choose.choice(
            (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int32(), pa.string()))
        )
        table = table.set_column(1, "text", table["text"].cast(kind))
    if extension == ".parquet":
        how: dict[str, Any] = {
            "compression": choose.choice(("snappy", "zstd", "none")),
            "row_group_size": choose.randint(1, 40),
            "use_dictionary": choose.random() < 0.5,
            "data_page_version": choose.choice(("1.0", "2.0")),
            "store_schema": choose.random() < 0.5,
        }
        pq.write_table(table, buffer, **how)
        return buffer.getvalue()
    options = pa.ipc.IpcWriteOptions(compression=choose.choice((None, None, "lz4", "zstd")))
    new = choose.choice((pa.ipc.new_file, pa.ipc.new_stream))
    with new(buffer, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=choose.randint(1, 40))
    return buffer.getvalue()


def _whole(choose: random.Random, raw: bytes) -> bytes:
    return raw


def _truncated(choose: random.Random, raw: bytes) -> bytes:
    return raw[: choose.randint(0, len(raw))]


def _flipped(choose: random.Random, raw: bytes) -> bytes:
    content = bytearray(raw)
    for _ in range(choose.choice((1, 1, 2, 8, 64)) if raw else 0):
        content[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
    return bytes(content)


def _end_flipped(choose: random.Random, raw: bytes) -> bytes:
    """Flip bits of the end, where a table has its description."""
    cut = max(0, len(raw) - choose.choice((16, 200, 1000)))
    return raw[:cut] + _flipped(choose, raw[cut:])


def _replaced(choose: random.Random, raw: bytes) -> bytes:
    start, length = choose.randint(0, len(raw)), choose.choice((1, 4, 8, 100))
    filling = choose.choice((b"\0", b"\xff", b"\x7f", b'"', b"[", choose.randbytes(1)))
    return raw[:start] + filling * length + raw[start + length :]


def _repeated(choose: random.Random, raw: bytes) -> bytes:
    start, length = choose.randint(0, len(raw)), choose.randint(0, 300)
    return raw[:start] + raw[start : start + length] * choose.randint(0, 50) + raw[start + length :]


def _cut_out(choose: random.Random, raw: bytes) -> bytes:
    start = choose.randint(0, len(raw))
    return raw[:start] + raw[start + choose.randint(1, 300) :]


_DAMAGES = (_whole, _truncated, _flipped, _flipped, _end_flipped, _replaced, _replaced, _repeated, _cut_out)


def _nested(choose: random.Random) -> tuple[str, bytes]:
    depth = choose.choice((900, 5_000, 100_000))
    opening, closing = choose.choice((("[", "]"), ('{"text":', "}"), ('{"a":[', "]}")))
    whole = opening * depth + '"x"' + closing * choose.choice((0, depth))
    row = choose.choice(("%s", '{"text": "x", "b": %s}', '{"text": %s}', '{"messages": %s}')) % whole
    is_array = choose.random() < 0.5
    return (
        ("a.json", f"[{row}, {row}]".encode()) if is_array else ("a.jsonl", f'{{"text": "x"}}\n{row}\n'.encode())
    )


def _binary(choose: random.Random) -> tuple[str, bytes]:
    compressed = (b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"BZh9", b"\xfd7zXZ\0", b"PK\x03\x04")
    encoded = (b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\0\0")
    magic = choose.choice((b"", b"PAR1", b"ARROW1\0\0", b"%PDF-1.4", b"\x7fELF", *compressed, *encoded))
    body = choose.choice((choose.randbytes(3000), b"\0" * 3000, b"some text " * 300, b""))
    return f"a{choose.choice((*_EXTENSIONS, *_COMPRESS))}", magic + body


def _encoded(choose: random.Random) -> tuple[str, bytes]:
    text = "\n".join(_texts(choose)) + "Some English text, with “quotes” and é.\n" * 20
    encoding = choose.choice(
        ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "cp1252", "utf-8-sig", "gb18030")
    )
    return f"a{choose.choice(('.txt', '.csv', '.jsonl', '.json'))}", text.encode(encoding, errors="replace")


def _numbers(choose: random.Random) -> tuple[str, bytes]:
    value = choose.choice(("1" * 5000, "1e999999999", "-0.0", "NaN", "1" * 100 + "e-9", "true", "null", "[]"))
    return choose.choice(
        (("a.json", f'[{{"text": {value}}}]'.encode()), ("a.jsonl", f'{{"text": {value}}}\n'.encode()))
    )


def _quotes(choose: random.Random) -> tuple[str, bytes]:
    rows = ['"open', "a,b,c,d", '"x"y"z"', "\r", '""', ",", "a\0b", '"' * 999, "\t", "é", '"a\nb"']
    return choose.choice(("a.csv", "a.tsv")), "\n".join(["id,text", *choose.choices(rows, k=30)]).encode()


def _empty(choose: random.Random) -> tuple[str, bytes]:
    content = choose.choice(
        (b"", b"\n", b"\xef\xbb\xbf", b" \n\t\r\n" * 50, b"[]", b"{}", b"[\n]\n", b"\0", b"text\n")
    )
    return f"a{choose.choice((*_EXTENSIONS, *_COMPRESS))}", content


def _halves(choose: random.Random) -> tuple[str, bytes]:
    half = choose.choice(('"\\ud83d"', '"a\\udc00b"', '"\\ud83d\\ude00"', '"\\u0000"', '"\\ud83d" '))
    return (
        "a.jsonl",
        f'{{"text": {half}, "messages": [{{"role": "assistant", "content": {half}}}]}}\n'.encode() * 3,
    )


def _card(choose: random.Random) -> tuple[str, bytes]:
    aliases = "".join(
        f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9) if i else 'lol'}]\n"
        for i in range(choose.choice((2, 9, 30)))
    )
    patterns = choose.choice(
        (
            "*x1",
            '"**/**/**/**/**/**/a"',
            "[" * 500,
            '"[0-9]*"',
            "[a, {b: c}]",
            "!!python/object:os.x",
            "2026-01-01",
            "*x8",
        )
    )
    return (
        "README.md",
        f"---\n{aliases}configs:\n- data_files:\n  - split: train\n    path: {patterns}\n---\n".encode(),
    )


_ODD_FILES = (_nested, _binary, _encoded, _numbers, _quotes, _empty, _halves, _card, _card)


@cache
def _bomb(extension: str, prefix: bytes, unit: bytes, suffix: bytes = b"") -> tuple[str, bytes]:
    size = _BOMB_OF_ROWS_BYTES if unit.endswith(b"\n") else _BOMB_BYTES
    raw = prefix + unit * (size // len(unit)) + suffix
    return f"a{extension}", _COMPRESS[extension[extension.rindex(".") :]](raw)


@cache
def _references(extension: str, count: int) -> tuple[str, bytes]:
    """Return a table that has a large value often: as references that are few bytes."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), ["x" * _VALUE_BYTES])
    buffer, table = io.BytesIO(), pa.table({"text": column})
    if extension == ".parquet":
        pq.write_table(table, buffer, compression="zstd", store_schema=False)
    else:
        with pa.ipc.new_stream(buffer, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(table)
    return f"a{extension}", buffer.getvalue()


@cache
def _nulls(extension: str) -> tuple[str, bytes]:
    buffer, table = io.BytesIO(), pa.table({"text": pa.nulls(1 << 24)})
    if extension == ".parquet":
        pq.write_table(table, buffer)
    else:
        with pa.ipc.new_file(buffer, table.schema) as writer:
            writer.write_batch(table.to_batches()[0])
    return f"a{extension}", buffer.getvalue()


_BOMBS: tuple[Callable[[], tuple[str, bytes]], ...] = (
    lambda: _bomb(".jsonl.gz", b'{"text": "', b"x", b'"}\n'),
    lambda: _bomb(".jsonl.zst", b'{"text": "x", "a": [', b"[],", b"3]}\n"),
    lambda: _bomb(".jsonl.bz2", b"", b"{oops}\n"),
    lambda: _bomb(".json.gz", b"[", b"[],"),
    lambda: _bomb(".json.xz", b'[{"text": "', b"x"),
    lambda: _bomb(".csv.gz", b'text\n"', b"x\n"),
    lambda: _bomb(".csv.zst", b"text\n", b"ab,"),
    lambda: _bomb(".txt.xz", b"", b"\xff a few words "),
    lambda: _bomb(".txt.gz", b"", b" "),
    lambda: _bomb(".txt.zst", b"", b"a\n"),
    lambda: _references(".parquet", 100_000),
    lambda: _references(".parquet", 8),
    lambda: _references(".arrow", 100_000),
    lambda: _nulls(".parquet"),
    lambda: _nulls(".arrow"),
)
