"""The plan of a preparation: pieces of files grouped into tasks, each of which becomes a token shard per split.

    a.txt b.txt c.txt | d.jsonl [0, 64M) | d.jsonl [64M, 128M) | e.parquet rows [0, 9000) | ...
    -----task 0------   -----task 1-----   ------task 2-------   --------task 3--------

Files in order are grouped until they hold `data.shard_text_bytes` of text; larger ones are cut, unless they are
compressed. The plan depends on text and settings alone; a task's key is the hash of all that.
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

RangeGroup = tuple[tuple[FileRange, ...], int]  # consecutive pieces, and about how many bytes of text they have
_EXPANSION = 4  # bytes of text per byte of a compressed file, about
logger = logging.getLogger(__name__)


def dataset_settings(config: DataConfig, *, hold_out: bool = True) -> dict[str, Any]:
    """Return the settings that shape a token dataset. Without `hold_out` all of the text is trained on."""
    return {
        **config.model_dump(include={"format", "documents", "bad_utf8", "deduplicate", "shard_text_bytes"}),
        "field": content_field(config),
        "validation_fraction": config.validation_fraction if hold_out else None,
    }


def plan_tasks(
    corpus: Corpus | None, validation: Corpus | None, identity: str, config: DataConfig, *, hold_out: bool = True
) -> tuple[Holdout, list[Task]]:
    """Return how validation is held out, and the tasks in order. `identity` is the hash of the tokenizer."""
    holdout: Holdout = "given"
    groups: list[RangeGroup] = []
    hashes: dict[SourceFile, str] = {}
    if corpus is not None:
        holdout = choose_holdout(corpus) if hold_out else "given"
        groups += group_ranges(assign_splits(corpus, holdout), corpus)
        hashes |= zip(corpus.files, corpus.hashes, strict=True)
    if validation is not None:
        if corpus is not None and validation.fingerprint != corpus.fingerprint:  # the same text is on purpose
            known = set(corpus.hashes)
            pairs = zip(validation.files, validation.hashes, strict=True)
            if copies := [file.name for file, sha256 in pairs if sha256 in known]:
                about = len(copies), copies[0]
                logger.warning("%d files are in the training and the validation text: %s", *about)
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
    """Return a task for each group; they are numbered from `first` on."""
    tasks, settings = list[Task](), dataset_settings(config, hold_out=hold_out)
    for i, (pieces, text_bytes) in enumerate(groups, first):
        contents = [
            [
                *(piece.file.name, hashes[piece.file], piece.file.kind, piece.file.compression),
                *(piece.start, piece.stop, piece.starts_document, piece.ends_document),
                *(piece.split, piece.duplicates),
            ]
            for piece in pieces
        ]
        inputs = [VERSION, i, identity, settings, contents]
        tasks.append(Task(i, pieces, text_bytes, json_sha256(inputs), config))
    return tasks


def group_documents(corpus: Corpus) -> list[tuple[FileRange, ...]]:
    """Return all of a corpus in groups of about the wanted size, in order, and no document cut."""
    parts: list[tuple[FileRange, int]] = []
    for file in corpus.files:
        whole = FileRange(file)
        parts += [(whole, file.bytes)] if file.kind == "text" else _divide_range(whole, corpus.config)
    return [pieces for pieces, _ in _join_ranges(parts, corpus.config.shard_text_bytes)]


def group_ranges(pieces: Iterable[FileRange], corpus: Corpus) -> Iterator[RangeGroup]:
    """Cut and group pieces, each with the places in it that the corpus drops."""
    parts = (part for piece in pieces for part in _divide_range(piece, corpus.config))
    for group, size in _join_ranges(parts, corpus.config.shard_text_bytes):
        yield tuple(_with_duplicates(piece, corpus.duplicates.get(piece.file, ())) for piece in group), size


def _with_duplicates(piece: FileRange, places: tuple[int, ...]) -> FileRange:
    stop = len(places) if piece.stop is None else bisect_left(places, piece.stop)
    return replace(piece, duplicates=places[bisect_left(places, piece.start) : stop])


def _join_ranges(parts: Iterable[tuple[FileRange, int]], wanted: int) -> Iterator[RangeGroup]:
    """Join consecutive (piece, bytes of its text) to about the wanted size."""
    group, total = list[FileRange](), 0
    for part, size in parts:
        if group and total + size > wanted:
            yield tuple(group), total
            group, total = [], 0
        group.append(part)
        total += size
    if group:
        yield tuple(group), total


def _divide_range(piece: FileRange, config: DataConfig) -> Iterator[tuple[FileRange, int]]:
    """Cut a piece that is too large; yield (piece, bytes of its text, about)."""
    file, wanted = piece.file, config.shard_text_bytes
    if file.kind == "parquet":
        yield from _divide_rows(piece, row_groups(file, config.text_field), wanted)
    elif file.compression is not None:
        yield piece, file.bytes * _EXPANSION
    else:
        stop = file.bytes if piece.stop is None else piece.stop
        count = -(-(stop - piece.start) // wanted)
        targets = [piece.start + i * (stop - piece.start) // count for i in range(1, count)]
        cuts = sorted({_cut_before(file, piece.start, target) for target in targets} - {piece.start})
        for low, high in zip([piece.start, *cuts], [*cuts, stop], strict=True):
            begins, ends = piece.starts_document and low == piece.start, piece.ends_document and high == stop
            yield replace(piece, start=low, stop=high, starts_document=begins, ends_document=ends), high - low


def _cut_before(file: SourceFile, start: int, target: int) -> int:
    """Return the last place before `target` to cut a text, or the end of a line of rows, or else `start`."""
    window = 1 << 16
    while True:
        low = max(start, target - window)
        raw = b"".join(FileRange(file, low, target).read_blocks())
        cut = find_last_cut(raw) if file.kind == "text" else raw.rfind(b"\n") + 1
        if cut:
            return low + cut
        if file.kind == "text" and window >= MAX_PART_BYTES:
            return low + character_start(raw, len(raw) - 1)
        if low == start:
            return start
        window *= 8


def _divide_rows(piece: FileRange, groups: list[tuple[int, int]], wanted: int) -> Iterator[tuple[FileRange, int]]:
    """Cut rows [start, stop) between row groups. A group that is partly inside counts as a whole."""
    stop = sum(rows for rows, _ in groups) if piece.stop is None else piece.stop
    low, first, total = piece.start, 0, 0
    for rows, size in groups:
        if piece.start < first + rows and first < stop:
            if total and total + size > wanted and first > low:
                yield replace(piece, start=low, stop=first), total
                low, total = first, 0
            total += size
        first += rows
    yield replace(piece, start=low, stop=stop), total
