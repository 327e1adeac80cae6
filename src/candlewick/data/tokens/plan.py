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
from candlewick.data.text.corpus import Corpus, field_of
from candlewick.data.text.holdout import Holdout, assign, choose
from candlewick.data.text.parquet import row_groups
from candlewick.data.text.pieces import MAX_PART_BYTES, Piece, SourceFile, character_cut, last_cut
from candlewick.data.tokens.dataset import VERSION
from candlewick.data.tokens.encode import Task

Group = tuple[tuple[Piece, ...], int]  # consecutive pieces, and about how many bytes of text they have
_EXPANSION = 4  # bytes of text per byte of a compressed file, about
_log = logging.getLogger(__name__)


def settings_of(config: DataConfig, *, hold_out: bool = True) -> dict[str, Any]:
    """Return the settings that shape a token dataset. Without `hold_out` all of the text is trained on."""
    return {
        **config.model_dump(include={"format", "documents", "bad_utf8", "deduplicate", "shard_text_bytes"}),
        "field": field_of(config),
        "validation_fraction": config.validation_fraction if hold_out else None,
    }


def plan(
    corpus: Corpus | None, validation: Corpus | None, identity: str, config: DataConfig, *, hold_out: bool = True
) -> tuple[Holdout, list[Task]]:
    """Return how validation is held out, and the tasks in order. `identity` is the hash of the tokenizer."""
    holdout: Holdout = "given"
    groups: list[Group] = []
    hashes: dict[SourceFile, str] = {}
    if corpus is not None:
        holdout = choose(corpus) if hold_out else "given"
        groups += groups_of(assign(corpus, holdout), corpus)
        hashes |= zip(corpus.files, corpus.hashes, strict=True)
    if validation is not None:
        if corpus is not None and validation.fingerprint != corpus.fingerprint:  # the same text is on purpose
            known = set(corpus.hashes)
            pairs = zip(validation.files, validation.hashes, strict=True)
            if copies := [file.name for file, sha256 in pairs if sha256 in known]:
                about = len(copies), copies[0]
                _log.warning("%d files are in the training and the validation text: %s", *about)
        groups += groups_of((Piece(file, split="validation") for file in validation.files), validation)
        hashes |= zip(validation.files, validation.hashes, strict=True)
    return holdout, tasks_of(groups, hashes, identity, config, hold_out)


def tasks_of(
    groups: Sequence[Group],
    hashes: Mapping[SourceFile, str],
    identity: str,
    config: DataConfig,
    hold_out: bool,
    first: int = 0,
) -> list[Task]:
    """Return a task for each group; they are numbered from `first` on."""
    tasks, settings = list[Task](), settings_of(config, hold_out=hold_out)
    for i, (pieces, text_bytes) in enumerate(groups, first):
        inputs = [VERSION, i, identity, settings, [_identity(p, hashes) for p in pieces]]
        tasks.append(Task(i, pieces, text_bytes, json_sha256(inputs), config))
    return tasks


def whole_documents(corpus: Corpus) -> list[tuple[Piece, ...]]:
    """Return all of a corpus in groups of about the wanted size, in order, and no document cut."""
    parts: list[tuple[Piece, int]] = []
    for file in corpus.files:
        parts += [(Piece(file), file.bytes)] if file.kind == "text" else _divide(Piece(file), corpus.config)
    return [pieces for pieces, _ in _group(parts, corpus.config.shard_text_bytes)]


def _identity(piece: Piece, hashes: Mapping[SourceFile, str]) -> list[object]:
    file = piece.file
    return [
        *(file.name, hashes[file], file.kind, file.compression),
        *(piece.start, piece.stop, piece.begins, piece.ends, piece.split, piece.dropped),
    ]


def groups_of(pieces: Iterable[Piece], corpus: Corpus) -> Iterator[Group]:
    """Cut and group pieces, each with the places in it that the corpus drops."""
    parts = (part for piece in pieces for part in _divide(piece, corpus.config))
    for group, size in _group(parts, corpus.config.shard_text_bytes):
        yield tuple(_dropping(piece, corpus.dropped.get(piece.file, ())) for piece in group), size


def _dropping(piece: Piece, places: tuple[int, ...]) -> Piece:
    stop = len(places) if piece.stop is None else bisect_left(places, piece.stop)
    return replace(piece, dropped=places[bisect_left(places, piece.start) : stop])


def _group(parts: Iterable[tuple[Piece, int]], wanted: int) -> Iterator[Group]:
    """Join consecutive (piece, bytes of its text) to about the wanted size."""
    group, total = list[Piece](), 0
    for part, size in parts:
        if group and total + size > wanted:
            yield tuple(group), total
            group, total = [], 0
        group.append(part)
        total += size
    if group:
        yield tuple(group), total


def _divide(piece: Piece, config: DataConfig) -> Iterator[tuple[Piece, int]]:
    """Cut a piece that is too large; yield (piece, bytes of its text, about)."""
    file, wanted = piece.file, config.shard_text_bytes
    if file.kind == "parquet":
        yield from _divide_rows(piece, row_groups(file, field_of(config)), wanted)
    elif file.compression is not None:
        yield piece, file.bytes * _EXPANSION
    else:
        stop = file.bytes if piece.stop is None else piece.stop
        count = -(-(stop - piece.start) // wanted)
        targets = [piece.start + i * (stop - piece.start) // count for i in range(1, count)]
        cuts = sorted({_cut_before(file, piece.start, target) for target in targets} - {piece.start})
        for low, high in zip([piece.start, *cuts], [*cuts, stop], strict=True):
            begins, ends = piece.begins and low == piece.start, piece.ends and high == stop
            yield replace(piece, start=low, stop=high, begins=begins, ends=ends), high - low


def _cut_before(file: SourceFile, start: int, target: int) -> int:
    """Return the last place before `target` to cut a text, or the end of a line of rows, or else `start`."""
    window = 1 << 16
    while True:
        low = max(start, target - window)
        raw = b"".join(Piece(file, low, target).blocks())
        cut = last_cut(raw) if file.kind == "text" else raw.rfind(b"\n") + 1
        if cut:
            return low + cut
        if file.kind == "text" and window >= MAX_PART_BYTES:
            return low + character_cut(raw, len(raw) - 1)
        if low == start:
            return start
        window *= 8


def _divide_rows(piece: Piece, groups: list[tuple[int, int]], wanted: int) -> Iterator[tuple[Piece, int]]:
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
