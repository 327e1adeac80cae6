"""The plan of packed rows: which segments of documents each row holds. That of a large split is a file.

    CACHE/rows-0123456789abcdef/rows.bin    for each bucket of documents its rows, then their segments
    row        entry number of its first segment (int64), tokens in it (int32); one more: where the last ends
    segment    its first token in the split (int64), tokens (int32)

Buckets are packed one at a time, in the memory that one takes. The plan of few documents is made in memory at each
start; a larger one is made once per cache, and all processes of a machine map the same file.
"""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from candlewick.artifacts.build import Recipe, build_once
from candlewick.artifacts.manifest import Manifest, json_sha256, provenance, publish, write_durable
from candlewick.data.rows.permutation import permute
from candlewick.data.tokens.cache import touch
from candlewick.data.tokens.dataset import Indices, TokenSplit, verify_once
from candlewick.data.tokens.maps import FolderHold, MappedFiles, require_readable
from candlewick.errors import ArtifactError, DataError

KIND = "rows"
_FILE = "rows.bin"
_BUCKET_DOCUMENTS = 1 << 18
_MAX_IN_MEMORY = 1 << 22  # documents: 90 MB, and about a second at each start
_ENTRY = np.dtype([("first", "<i8"), ("tokens", "<i4")])
Entries = NDArray[np.void]
logger = logging.getLogger(__name__)


class PackingPlan:
    """The rows of at most `length` tokens of a split. Raises DataError if its last document has no end.

    `cache` is the folder for the plan of a large split; without it, or without room there, it is kept in memory.
    """

    def __init__(self, split: TokenSplit, length: int, cache: Path | None = None) -> None:
        files, counts = None, list[list[int]]()
        if cache is not None and split.num_documents > _MAX_IN_MEMORY:
            try:
                files, counts = _open_file(split, length, cache)
            except OSError as error:
                size = split.num_documents * 24 / 1e9
                logger.warning("no plan of rows in %s (%s): %.0f GB of memory hold it", cache, error, size)
        self._files = files  # which hold the folder of the plan
        self._entries = np.concatenate([*_pack(split, length, counts)]) if files is None else files[0]
        rows, segments = np.array(counts, np.int64).T
        self._first_rows = np.cumsum(rows) - rows  # of each bucket
        self._shifts = np.cumsum(segments + 1) - (segments + 1)  # from the number of a row to that of its entry
        self.num_rows = int(rows.sum())

    def tokens(self, rows: Indices) -> NDArray[np.int32]:
        """Return the number of tokens in each row."""
        numbers = self._entry_numbers(rows)
        require_readable(self._entries, numbers.tolist(), 1)
        return self._entries["tokens"][numbers]

    def segments(self, rows: Indices) -> Iterator[list[tuple[int, int]]]:
        """Yield first token and size of the segments of each row."""
        numbers = self._entry_numbers(rows)
        require_readable(self._entries, numbers.tolist(), 2)
        firsts, ends = (self._entries["first"][numbers + i].tolist() for i in (0, 1))
        for first, end in zip(firsts, ends, strict=True):
            require_readable(self._entries, [first], end - first)
            yield self._entries[first:end].tolist()

    def _entry_numbers(self, rows: Indices) -> Indices:
        return rows + self._shifts[np.searchsorted(self._first_rows, rows, "right") - 1]


def _open_file(split: TokenSplit, length: int, cache: Path) -> tuple[MappedFiles, list[list[int]]]:
    """Return the file of the plan of a split, made now unless it is there, and the counts of its buckets."""
    settings = {"split": split.name, "sequence_length": length, "bucket_documents": _BUCKET_DOCUMENTS}
    recipe = Recipe(KIND, {"dataset": split.dataset_id}, settings)
    folder = cache / f"{KIND}-{json_sha256([recipe.inputs, recipe.config])[:16]}"

    def build(partial: Path) -> Manifest:
        logger.info("packing %d documents into rows, once: %s", split.num_documents, folder)
        counts: list[list[int]] = []
        try:
            file = write_durable(partial / _FILE, (block.tobytes() for block in _pack(split, length, counts)))
            details = {"buckets": counts}
            manifest = Manifest(KIND, 1, recipe.inputs, recipe.config, (file,), details, provenance())
            return publish(partial, folder, manifest)
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # a part is of no use, and may fill the disk

    manifest, reused = build_once(folder, recipe, build, hashes=False)
    touch(folder)
    hold = FolderHold(folder)
    try:
        if reused:
            verify_once(folder, manifest)
    except ArtifactError as error:
        raise ArtifactError(error.problem, f"remove {folder}: it is made again") from None
    entries = manifest.files[0].bytes // _ENTRY.itemsize
    return MappedFiles(hold, "{}", [_FILE], [entries], _ENTRY), manifest.details["buckets"]


def _pack(split: TokenSplit, length: int, counts: list[list[int]]) -> Iterator[Entries]:
    """Yield the entries of each bucket; append its numbers of rows and segments to `counts`."""
    first_token = first_entry = 0
    for number, ends in enumerate(_buckets(split)):
        starts, tokens = _cut_documents(first_token, ends, length)
        rows = pack(tokens, length)
        num_rows = int(rows.max()) + 1
        rows = permute(np.arange(num_rows), num_rows, number * _BUCKET_DOCUMENTS)[rows]
        order = np.argsort(rows, kind="stable")
        block = np.empty(num_rows + 1 + order.size, _ENTRY)
        row_entries, segments = block[: num_rows + 1], block[num_rows + 1 :]
        segments["first"], segments["tokens"] = starts[order], tokens[order]
        bounds = np.concatenate(([0], np.cumsum(np.bincount(rows))))
        row_entries["first"] = first_entry + num_rows + 1 + bounds
        row_entries["tokens"] = np.append(np.add.reduceat(segments["tokens"], bounds[:-1]), 0)
        counts.append([num_rows, order.size])
        first_token, first_entry = int(ends[-1]), first_entry + block.size
        yield block
    if first_token != split.num_tokens:
        raise DataError(f"the last document of {split.name} has no end", "prepare the dataset again")


def _buckets(split: TokenSplit) -> Iterator[Indices]:
    """Yield the ends of documents in the split, so many at a time; the last bucket may have fewer."""
    parts, size = list[Indices](), 0
    for start, ends in zip(split.shard_starts, split.document_ends, strict=True):
        require_readable(ends, [0], ends.size)
        parts.append(start + ends.astype(np.int64))
        size += ends.size
        if size >= _BUCKET_DOCUMENTS:
            joined, rest = np.concatenate(parts), size % _BUCKET_DOCUMENTS
            yield from (joined[: size - rest].reshape(-1, _BUCKET_DOCUMENTS))
            parts, size = [joined[joined.size - rest :]], rest
    if size:
        yield np.concatenate(parts)


def _cut_documents(first_token: int, ends: Indices, length: int) -> tuple[Indices, NDArray[np.int32]]:
    """Cut consecutive documents, from `first_token` on; return first token and size of each segment."""
    document_starts = np.concatenate(([first_token], ends[:-1]))
    counts = (ends - document_starts + length - 1) // length
    index = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # of a segment in its document
    starts = np.repeat(document_starts, counts) + index * length
    return starts, np.minimum(np.repeat(ends, counts) - starts, length).astype(np.int32)


def pack(lengths: NDArray[np.int32], capacity: int) -> Indices:
    """Return the row of each segment of 1..capacity tokens, by best fit decreasing, numbered in order."""
    row_of = np.empty(lengths.size, np.int64)
    # a short type, which numpy sorts by counting
    order = np.argsort((capacity - lengths).astype(np.min_scalar_type(capacity)), kind="stable")
    bounds = np.cumsum(np.bincount(capacity - lengths, minlength=capacity)).tolist()
    open_rows: dict[int, Indices] = {}  # by the room left in them
    rooms = 0  # bit r: there are rows with room r
    num_rows = 0
    for length, low, high in zip(range(capacity, 0, -1), [0, *bounds], bounds, strict=False):
        remaining = order[low:high]
        while remaining.size:
            if fitting := rooms >> length:
                space = length + (fitting & -fitting).bit_length() - 1  # the lowest bit
                rows = open_rows.pop(space)
                rooms ^= 1 << space
            else:
                space = capacity
                rows = np.arange(num_rows, num_rows + max(1, remaining.size // (space // length)))
                num_rows += rows.size
            # a row takes segments until no other fits: after each it is the row with the least room
            per_row = min(space // length, remaining.size)
            filled = rows[: remaining.size // per_row]
            row_of[remaining[: filled.size * per_row]] = np.repeat(filled, per_row)
            remaining = remaining[filled.size * per_row :]
            for room, chosen in ((space, rows[filled.size :]), (space - per_row * length, filled)):
                if room and chosen.size:
                    open_rows[room] = np.concatenate((open_rows[room], chosen)) if rooms >> room & 1 else chosen
                    rooms |= 1 << room
    return row_of
