"""Files of tokens that other programs made, as sources of a token dataset (`data.format: tokens`).

    nanoGPT      ids, headerless: uint16, or uint32 with `data.token_dtype`; the delimiter ends or begins documents
    llm.c        256 int32 (20240520, 1, number of tokens, ...), then uint16 ids; uint32 after (20240801, 7, ...)
    Megatron     NAME.bin with ids, and NAME.idx with their type and where documents begin

A range of such a file is addressed by tokens. Ids stay what they are: the tokenizer that made them is named.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from candlewick.data.text.corpus import Corpus
from candlewick.data.text.file_ranges import FileRange, TextFile
from candlewick.data.text.holdout import Tails
from candlewick.data.tokens.dataset import Indices
from candlewick.errors import DataError

_LLMC_TYPES = {(20240520, 1): "<u2", (20240801, 7): "<u4"}  # magic number and version: of GPT-2, of Llama 3
_LLMC_HEADER_BYTES = 1024
_MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
_MEGATRON_HEADER_BYTES = len(_MEGATRON_MAGIC) + 8 + 1 + 8 + 8
_MEGATRON_TYPES = {4: "<i4", 5: "<i8", 8: "<u2"}


@dataclass(frozen=True)
class TokenFile:
    """A file of tokens, mapped into memory."""

    path: Path
    ids: NDArray[np.integer]
    document_starts: Indices | None = None  # None: the delimiters say it

    @classmethod
    def open(cls, file: TextFile, dtype: str) -> "TokenFile":
        """Open a file whose headerless ids have a type. Raises DataError if it cannot be one of tokens."""
        file.require_unchanged()
        path = file.path
        raw = b"" if file.index is None else file.index.path.read_bytes()
        if file.index is not None and raw.startswith(_MEGATRON_MAGIC):
            return cls._open_megatron(path, file.index.path, raw)
        header = np.fromfile(path, "<i4", 3)
        if header.size == 3 and (int(header[0]), int(header[1])) in _LLMC_TYPES:
            ids = _map(path, _LLMC_TYPES[int(header[0]), int(header[1])], _LLMC_HEADER_BYTES)
            if ids.size != header[2]:
                raise DataError(f"{path} has {ids.size} tokens, its header says {header[2]}", "get it again")
            return cls(path, ids)
        return cls(path, _map(path, dtype, 0))

    @classmethod
    def _open_megatron(cls, path: Path, index: Path, raw: bytes) -> "TokenFile":
        code = raw[len(_MEGATRON_MAGIC) + 8] if len(raw) >= _MEGATRON_HEADER_BYTES else 0
        if code not in _MEGATRON_TYPES:
            raise DataError(
                f"{index} has tokens of type {code}", "types 4, 5 and 8 are read: int32, int64, uint16"
            )
        counts = np.frombuffer(raw, "<u8", 2, len(_MEGATRON_MAGIC) + 9).astype(np.int64)
        num_sequences, num_documents = int(counts[0]), int(counts[1])  # documents: with one entry behind the last
        offset = _MEGATRON_HEADER_BYTES
        ids = _map(path, _MEGATRON_TYPES[code], 0)
        try:
            sizes = np.frombuffer(raw, "<i4", num_sequences, offset).astype(np.int64)
            first_sequences = np.frombuffer(raw, "<i8", num_documents, offset + 12 * num_sequences)
            starts = np.concatenate(([0], np.cumsum(sizes)))[first_sequences[:-1]]
        except (ValueError, IndexError):
            raise DataError(f"{index} is cut or damaged", "get it again") from None
        if (sizes < 0).any() or sizes.sum() != ids.size or (np.diff(starts) < 0).any():
            raise DataError(f"{path} has {ids.size} tokens, {index.name} says {sizes.sum()}", "get both again")
        return cls(path, ids, np.unique(starts))

    def read(self, part: FileRange, delimiter_id: int, vocab_size: int) -> tuple[NDArray[np.integer], Indices]:
        """Return the ids of a range, a delimiter at the begin of each document, and where documents end.

        Raises DataError for ids that the tokenizer does not have.
        """
        stop = self.ids.size if part.stop is None else part.stop
        ids = np.asarray(self.ids[part.start : stop])
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
            raise DataError(
                f"{self.path} has ids from {ids.min()} to {ids.max()}, the tokenizer has {vocab_size}",
                "name the tokenizer that made the file, and set data.token_dtype to the type of its ids",
            )
        if self.document_starts is not None:
            low, high = np.searchsorted(self.document_starts, [part.start, stop])
            starts = self.document_starts[low:high]
            starts = starts[(starts > 0) & (starts < self.ids.size)]
            # a delimiter that ends the document before does as well
            starts = starts[self.ids[starts - 1] != delimiter_id] - part.start
            ids = np.insert(ids, starts, delimiter_id)
        if part.starts_document and ids.size and ids[0] != delimiter_id:
            ids = np.insert(ids, 0, delimiter_id)
        is_delimiter = ids == delimiter_id
        is_repeated = np.zeros_like(is_delimiter)
        is_repeated[:-1] = is_delimiter[:-1] & is_delimiter[1:]
        if part.ends_document and ids.size:
            is_repeated[-1] = is_delimiter[-1]
        ids = ids[~is_repeated]
        ends = np.flatnonzero(ids[1:] == delimiter_id) + 1
        return ids, np.concatenate((ends, [ids.size])) if part.ends_document and ids.size else ends


def hold_token_tails(corpora: Sequence[Corpus], share: float) -> Tails:
    """Return the ranges of each file of tokens: its beginning for training, and its end, which is held out."""
    tails = Tails()
    for corpus in corpora:
        for file in corpus.files:
            num_tokens = TokenFile.open(file, corpus.reading.token_dtype).ids.size
            cut = num_tokens - min(math.ceil(share * num_tokens), num_tokens // 2)
            tails.ranges[file] = FileRange(file, 0, cut, split="train"), FileRange(file, cut, split="validation")
    return tails


def divide_tokens(part: FileRange, dtype: str, piece_tokens: int) -> Iterator[tuple[FileRange, int]]:
    """Cut a range of a file of tokens into pieces of about a size; yield (range, tokens)."""
    stop = TokenFile.open(part.file, dtype).ids.size if part.stop is None else part.stop
    count = max(1, -(-(stop - part.start) // piece_tokens))
    cuts = [part.start + i * (stop - part.start) // count for i in range(count + 1)]
    for low, high in pairwise(cuts):
        is_start, is_end = part.starts_document and low == part.start, part.ends_document and high == stop
        yield replace(part, start=low, stop=high, starts_document=is_start, ends_document=is_end), high - low


def _map(path: Path, dtype: str, offset: int) -> NDArray[np.integer]:
    size = path.stat().st_size - offset
    if size <= 0 or size % np.dtype(dtype).itemsize:
        raise DataError(
            f"{path} has {size} bytes of ids, not a multiple of {np.dtype(dtype).itemsize}", "check it"
        )
    return np.memmap(path, dtype, "r", offset)
