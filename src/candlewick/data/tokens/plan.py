"""A plan groups ranges of files into tasks, each of which becomes a token shard per split.

    a.txt b.txt c.txt | d.jsonl [0, 64M) | d.jsonl [64M, 128M) | e.parquet rows [0, 9000) | ...
    -----task 0------   -----task 1-----   ------task 2-------   --------task 3--------

Files in order are grouped until they hold `data.shard_text_bytes` of text; larger files are cut, unless they are
compressed. The plan depends on text and settings only; a task's key is the hash of its text and settings.
"""

import logging
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from candlewick.artifacts.manifest import json_sha256
from candlewick.config import DataConfig
from candlewick.data.text.corpus import Corpus
from candlewick.data.text.documents import content_field
from candlewick.data.text.file_ranges import MAX_PART_BYTES, FileRange, SourceFile, character_start, find_last_cut
from candlewick.data.text.holdout import Holdout, assign_splits, choose_holdout
from candlewick.data.text.parquet import row_groups
from candlewick.data.tokens.dataset import VERSION
from candlewick.data.tokens.encode import Task

RangeGroup = tuple[tuple[FileRange, ...], int]  # consecutive ranges, and about how many bytes of text they have
_EXPANSION = 4  # bytes of text per byte of a compressed file, about
logger = logging.getLogger(__name__)


def dataset_settings(config: DataConfig, *, hold_out: bool = True) -> dict[str, Any]:
    """Return the settings that shape a token dataset. Without `hold_out` all text is for training."""
    return {
        **config.model_dump(include={"format", "documents", "bad_utf8", "deduplicate", "shard_text_bytes"}),
        "field": content_field(config),
        "validation_fraction": config.validation_fraction if hold_out else None,
    }


def plan_tasks(
    corpus: Corpus | None, validation: Corpus | None, identity: str, config: DataConfig, *, hold_out: bool = True
) -> tuple[Holdout, list[Task]]:
    """Return the way of holding out, and the tasks in order. `identity` is the hash of the tokenizer."""
    holdout: Holdout = "given"
    groups: list[RangeGroup] = []
    hashes: dict[SourceFile, str] = {}
    if corpus is not None:
        holdout = choose_holdout(corpus) if hold_out else "given"
        groups += group_ranges(assign_splits(corpus, holdout), corpus)
        hashes |= zip(corpus.files, corpus.hashes, strict=True)
    if validation is not None:
        if corpus is not None and validation.fingerprint != corpus.fingerprint:  # equal text is on purpose
            training_hashes = set(corpus.hashes)
            pairs = zip(validation.files, validation.hashes, strict=True)
            if copies := [file.name for file, sha256 in pairs if sha256 in training_hashes]:
                counts = len(copies), copies[0]
                logger.warning("%d files are in the training and the validation text: %s", *counts)
        groups += group_ranges((FileRange(file, split="validation") for file in validation.files), validation)
        hashes |= zip(validation.files, validation.hashes, strict=True)
    return holdout, make_tasks(groups, hashes, identity, config, hold_out)


def make_tasks(
    groups: Sequence[RangeGroup],
    hashes: Mapping[SourceFile, str],
    identity: str,
    config: DataConfig,
    hold_out: bool,
    first: int = 0,
) -> list[Task]:
    """Return a task for each group, numbered from `first` on."""
    tasks, settings = list[Task](), dataset_settings(config, hold_out=hold_out)
    for i, (file_ranges, text_bytes) in enumerate(groups, first):
        inputs = [VERSION, i, identity, settings, [r.identity(hashes[r.file]) for r in file_ranges]]
        tasks.append(Task(i, file_ranges, text_bytes, json_sha256(inputs), config))
    return tasks


def group_documents(corpus: Corpus) -> list[tuple[FileRange, ...]]:
    """Return a corpus in groups of about `data.shard_text_bytes`, in order, without cutting documents."""
    file_ranges: list[tuple[FileRange, int]] = []
    for file in corpus.files:
        whole = FileRange(file)
        file_ranges += [(whole, file.bytes)] if file.kind == "text" else _divide_range(whole, corpus.config)
    return [group for group, _ in _join_ranges(file_ranges, corpus.config.shard_text_bytes)]


def group_ranges(file_ranges: Iterable[FileRange], corpus: Corpus) -> Iterator[RangeGroup]:
    """Cut and group ranges, each with the positions of its duplicates."""
    divided = (smaller for file_range in file_ranges for smaller in _divide_range(file_range, corpus.config))
    for group, size in _join_ranges(divided, corpus.config.shard_text_bytes):
        ranges = (_with_duplicates(r, corpus.duplicates.get(r.file, ())) for r in group)
        yield tuple(ranges), size


def _with_duplicates(file_range: FileRange, positions: tuple[int, ...]) -> FileRange:
    stop = len(positions) if file_range.stop is None else bisect_left(positions, file_range.stop)
    return replace(file_range, duplicates=positions[bisect_left(positions, file_range.start) : stop])


def _join_ranges(file_ranges: Iterable[tuple[FileRange, int]], group_bytes: int) -> Iterator[RangeGroup]:
    """Join consecutive (range, bytes of text) to groups of about `group_bytes`."""
    group, total = list[FileRange](), 0
    for file_range, size in file_ranges:
        if group and total + size > group_bytes:
            yield tuple(group), total
            group, total = [], 0
        group.append(file_range)
        total += size
    if group:
        yield tuple(group), total


def _divide_range(file_range: FileRange, config: DataConfig) -> Iterator[tuple[FileRange, int]]:
    """Cut a range that is too large; yield (range, bytes of text, about)."""
    file, shard_bytes = file_range.file, config.shard_text_bytes
    if file.kind == "parquet":
        yield from _divide_rows(file_range, row_groups(file, config.text_field), shard_bytes)
    elif file.compression is not None:
        yield file_range, file.bytes * _EXPANSION
    else:
        start, stop = file_range.start, file.bytes if file_range.stop is None else file_range.stop
        count = -(-(stop - start) // shard_bytes)
        targets = [start + i * (stop - start) // count for i in range(1, count)]
        cuts = sorted({_cut_before(file, start, target) for target in targets} - {start})
        for low, high in zip([start, *cuts], [*cuts, stop], strict=True):
            is_start = file_range.starts_document and low == start
            is_end = file_range.ends_document and high == stop
            part = replace(file_range, start=low, stop=high, starts_document=is_start, ends_document=is_end)
            yield part, high - low


def _cut_before(file: SourceFile, start: int, target: int) -> int:
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


def _divide_rows(
    file_range: FileRange, row_groups: list[tuple[int, int]], shard_bytes: int
) -> Iterator[tuple[FileRange, int]]:
    """Cut rows [start, stop) between row groups. A row group that is partly inside counts fully."""
    stop = sum(rows for rows, _ in row_groups) if file_range.stop is None else file_range.stop
    low, first, total = file_range.start, 0, 0
    for rows, size in row_groups:
        if file_range.start < first + rows and first < stop:
            if total and total + size > shard_bytes and first > low:
                yield replace(file_range, start=low, stop=first), total
                low, total = first, 0
            total += size
        first += rows
    yield replace(file_range, start=low, stop=stop), total
