"""A plan groups ranges of files into tasks, each of which becomes a token shard per split.

    a.txt b.txt c.txt | d.jsonl [0, 64M) | d.jsonl [64M, 128M) | e.parquet rows [0, 9000) | ...
    -----task 0------   -----task 1-----   ------task 2-------   --------task 3--------

Files in order are cut into pieces of at most `data.shard_text_bytes` of text, unless they are compressed, and
pieces are joined until a shard is full. After 512 shards the next are twice as large, up to 16 times: 40 TB of
text are some 40,000 shards. A group depends on the text up to its end only. A task's key is the hash of its text
and settings.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from candlewick.artifacts.manifest import json_sha256
from candlewick.config import DataConfig
from candlewick.data.text.columns import row_groups
from candlewick.data.text.corpus import Corpus, Positions, content_hash
from candlewick.data.text.documents import content_columns, decide_utf8, text_size
from candlewick.data.text.file_ranges import MAX_PART_BYTES, FileRange, TextFile, character_start, find_last_cut
from candlewick.data.text.reading import Reading
from candlewick.data.tokens.dataset import VERSION
from candlewick.data.tokens.encode import Position, Task
from candlewick.data.tokens.token_files import divide_tokens

_BYTES_PER_TOKEN = 4  # about
_SHARDS_PER_SIZE = 512
_MAX_DOUBLINGS = 4


class Group(NamedTuple):
    """Consecutive ranges, and what comes after them."""

    ranges: tuple[FileRange, ...]
    text_bytes: int  # about
    max_bytes: int  # for which the ranges were joined
    next: Position


def dataset_settings(config: DataConfig, *, hold_out: bool = True) -> dict[str, Any]:
    """Return the settings that shape a token dataset. Without `hold_out` all text is for training."""
    return {
        **Reading.from_config(config).identity(),
        **config.model_dump(include={"deduplicate", "shard_text_bytes"}),
        "validation_fraction": config.validation_fraction if hold_out else None,
    }


def make_task(index: int, group: Group, reading: Reading, share: float, key: str) -> Task:
    """Return the task of a group; `key` stands for the tokenizer and the settings, `index` is its number."""
    ranges = [file_range.identity(content_hash(file_range.file)) for file_range in group.ranges]
    sha256 = json_sha256([VERSION, index, key, ranges])
    return Task(index, group.ranges, group.text_bytes, sha256, reading, share, group.max_bytes, group.next)


def max_shard_bytes(number: int, first_bytes: int) -> int:
    """Return how many bytes of text a shard has, by its number."""
    return first_bytes << min(number // _SHARDS_PER_SIZE, _MAX_DOUBLINGS)


def group_files(
    files: Iterable[tuple[int, TextFile] | None],
    find_ranges: Callable[[TextFile], Iterable[FileRange]],
    corpus: Corpus,
    piece_bytes: int,
    start: Position,
    number: int,
) -> Iterator[Group | None]:
    """Cut files that are large, join small ones, and yield the groups behind `start`, from group `number` on.

    None in the place of a file is passed on.
    """
    group, total, limit = list[FileRange](), 0, max_shard_bytes(number, piece_bytes)
    end = start
    for item in files:
        if item is None:
            yield None
            continue
        file_number, file = item
        parts = [*find_ranges(file)]
        if len(parts) > 1 or file.bytes > piece_bytes:
            is_utf8 = decide_utf8(file, corpus.reading)
            parts = [replace(part, is_utf8=is_utf8) for part in parts]
        pieces = (piece for part in parts for piece in _divide(part, corpus.reading, piece_bytes))
        for piece_number, (piece, size) in enumerate(pieces):
            here = Position(file_number, piece_number)
            if here < start:
                continue
            if group and total + size > limit:
                yield Group(tuple(group), total, limit, here)
                number += 1
                group, total, limit = [], 0, max_shard_bytes(number, piece_bytes)
            group.append(_with_duplicates(piece, corpus.duplicates.get(file)))
            total += size
        end = Position(file_number + 1, 0)
    if group:
        yield Group(tuple(group), total, limit, end)


def group_documents(corpus: Corpus, group_bytes: int) -> Iterator[tuple[FileRange, ...]]:
    """Yield a corpus in groups of about so many bytes of text, in order, without cutting documents."""
    group, total = list[FileRange](), 0
    for file in corpus.files:
        whole = FileRange(file)
        pieces = [(whole, file.bytes)] if file.kind == "text" else _divide(whole, corpus.reading, group_bytes)
        for file_range, size in pieces:
            if group and total + size > group_bytes:
                yield tuple(group)
                group, total = [], 0
            group.append(file_range)
            total += size
    if group:
        yield tuple(group)


def _with_duplicates(file_range: FileRange, positions: Positions | None) -> FileRange:
    """Return a range with those of its file's duplicates that lie in it."""
    if positions is None:
        return file_range
    start, stop = file_range.start, file_range.stop
    high = len(positions) if stop is None else bisect_left(positions, stop)
    inner = positions[bisect_left(positions, start) : high].tolist()
    return replace(file_range, duplicates=tuple(sorted({*file_range.duplicates, *inner})))


def _divide(file_range: FileRange, reading: Reading, piece_bytes: int) -> Iterator[tuple[FileRange, int]]:
    """Cut a range that is too large; yield (range, bytes of text, about)."""
    file = file_range.file
    if file.kind == "tokens":
        pieces = divide_tokens(file_range, reading.token_dtype, piece_bytes // _BYTES_PER_TOKEN)
        yield from ((piece, tokens * _BYTES_PER_TOKEN) for piece, tokens in pieces)
    elif file.kind == "parquet":
        yield from _divide_rows(file_range, reading, piece_bytes)
    elif file.compression is not None or not file.is_addressed_by_bytes:
        yield file_range, text_size(file, reading)
    else:
        start, stop = file_range.start, file.bytes if file_range.stop is None else file_range.stop
        count = -(-(stop - start) // piece_bytes)
        targets = [start + i * (stop - start) // count for i in range(1, count)]
        cuts = sorted({_cut_before(file, start, target) for target in targets} - {start})
        for low, high in zip([start, *cuts], [*cuts, stop], strict=True):
            is_start = file_range.starts_document and low == start
            is_end = file_range.ends_document and high == stop
            part = replace(file_range, start=low, stop=high, starts_document=is_start, ends_document=is_end)
            yield part, high - low


def _cut_before(file: TextFile, start: int, target: int) -> int:
    """Return the last safe cut before `target`: of rows the end of a line; `start` if there is none."""
    length = 1 << 16
    while True:
        low = max(start, target - length)
        raw = b"".join(FileRange(file, low, target).read_blocks())
        cut = find_last_cut(raw) if file.kind == "text" else raw.rfind(b"\n") + 1
        if cut:
            return low + cut
        if file.kind == "text" and length >= MAX_PART_BYTES:
            return low + character_start(raw, len(raw) - 1)
        if low == start:
            return start
        length *= 8


def _divide_rows(file_range: FileRange, reading: Reading, piece_bytes: int) -> Iterator[tuple[FileRange, int]]:
    """Cut rows [start, stop) between row groups. A row group that is partly inside counts fully."""
    groups = row_groups(file_range.file, content_columns(file_range.file, reading))
    stop = sum(rows for rows, _ in groups) if file_range.stop is None else file_range.stop
    low, first, total = file_range.start, 0, 0
    for rows, size in groups:
        if file_range.start < first + rows and first < stop:
            if total and total + size > piece_bytes and first > low:
                yield replace(file_range, start=low, stop=first), total
                low, total = first, 0
            total += size
        first += rows
    yield replace(file_range, start=low, stop=stop), total
