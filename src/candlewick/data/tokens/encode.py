"""A task encodes ranges of files into token shards and a receipt; it runs in a worker process.

    ranges --read--> documents --batches of a few MiB--> ids --delimiters in--> train-00007.bin .idx
                                                                                validation-00007.bin .idx
                                                                                00007.json, the receipt, last

The shards depend on the task alone: any process on any machine writes the same bytes. No torch is imported.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from candlewick.artifacts.build import ProgressCallback
from candlewick.artifacts.manifest import (
    FileEntry,
    canonical_json,
    file_sha256,
    read_bounded,
    replace_durable,
)
from candlewick.config import DataConfig
from candlewick.data.text.documents import Document, TextDefects, read_documents
from candlewick.data.text.file_ranges import SPLITS, FileRange, Split
from candlewick.data.text.holdout import document_split
from candlewick.data.tokens.dataset import Indices, Shard, Tokens, token_dtype, write_shard
from candlewick.data.tokens.workers import map_in_processes
from candlewick.errors import DataError
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.chat import ANSWER, ChatTokens, message_text
from candlewick.tokenizer.encoder import EncodedTexts, FastEncoder, ReferenceEncoder, batched, make_encoder

_BATCH_CHARACTERS = 2 << 20
_BATCH_DOCUMENTS = 1 << 15
_SELF_CHECK_CHARACTERS = 512
_SELF_CHECK_SHARE = 0.03
_SELF_CHECKS_PER_BATCH = 32
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Task:
    """The text of one shard per split. The key is the hash of all that decides the shards."""

    index: int
    file_ranges: tuple[FileRange, ...]
    text_bytes: int  # about
    key: str
    config: DataConfig


@dataclass(frozen=True, slots=True)
class Receipt:
    """The files of a finished task; a receipt beside the shards keeps them from being made twice."""

    key: str
    shards: tuple[Shard, ...]
    files: tuple[FileEntry, ...]
    bad_utf8: TextDefects


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """The folder of the shards and the special ids in them. The tokenizer lies in `folder`/tokenizer."""

    folder: Path
    vocab_size: int
    delimiter_id: int
    end_id: int | None = None


class ShardMaker:
    """Encodes tasks one after another with one encoder, whose cache grows with the text."""

    def __init__(self, output: TokenOutput) -> None:
        self.output = output
        self._tokenizer = Tokenizer.load(output.folder / "tokenizer")
        tokenizer_json, continuation_json = self._tokenizer.encoder_json, self._tokenizer.continuation_json
        self._encoder = make_encoder(tokenizer_json)
        is_checked = not isinstance(self._encoder, ReferenceEncoder)
        self._self_check = _SelfCheck(self._encoder, tokenizer_json) if is_checked else None
        self.backend = self._encoder.name
        continues_alike = continuation_json is None
        self._continuation = self._encoder if continues_alike else make_encoder(continuation_json)

    @cached_property
    def _chat(self) -> ChatTokens:
        return ChatTokens(self._tokenizer)

    def run(self, task: Task, on_bytes: Callable[[int], None] | None = None) -> Receipt:
        """Write the shards and the receipt of a task. Raises DataError for text that cannot be used."""
        defects = TextDefects()
        shards: list[Shard] = []
        files: list[FileEntry] = []
        chat = self._chat if task.config.format == "chat" else None
        open_shards = {split: _OpenShard(self.output, split, chat) for split in SPLITS}
        documents = _read_task(task, defects)
        for batch in batched(documents, lambda item: len(item[1].text), _BATCH_CHARACTERS, _BATCH_DOCUMENTS):
            for split, shard in open_shards.items():
                if chosen := [document for name, document in batch if name == split]:
                    shard.add(chosen, *self._encode(chosen, is_chat=chat is not None))
                # the length of a compressed file is unknown; of a chat, text_bytes counts the answers only
                if max(shard.text_bytes, shard.tokens) > 2 * task.config.shard_text_bytes:
                    shard.write(task.index, shards, files)
            if on_bytes:
                on_bytes(sum(len(document.text) for _, document in batch))
        for shard in open_shards.values():
            shard.write(task.index, shards, files)
        receipt = Receipt(task.key, tuple(shards), tuple(files), defects)
        replace_durable(_receipt_path(self.output.folder, task), canonical_json(asdict(receipt)))
        return receipt

    def _encode(self, documents: list[Document], *, is_chat: bool) -> EncodedTexts:
        if self._self_check is not None:
            self._self_check.run(documents)
        is_plain = is_chat or self._continuation is self._encoder
        if is_plain or all(document.starts_document for document in documents):
            return self._encoder.encode([document.text for document in documents])
        encoded = [
            (self._encoder if document.starts_document else self._continuation).encode([document.text])
            for document in documents
        ]
        return np.concatenate([ids for ids, _ in encoded]), np.concatenate([lengths for _, lengths in encoded])


def read_receipt(folder: Path, task: Task) -> Receipt | None:
    """Return the receipt of a task if it is finished and its files are whole, else None."""
    try:
        receipt = TypeAdapter(Receipt).validate_json(read_bounded(_receipt_path(folder, task)))
        is_whole = all(file_sha256(folder / entry.name) == entry.sha256 for entry in receipt.files)
    except (OSError, ValueError):
        return None
    return receipt if is_whole and receipt.key == task.key else None


def receipt_entry(folder: Path, task: Task) -> FileEntry:
    """Return the manifest entry of a task's receipt."""
    path = _receipt_path(folder, task)
    return FileEntry(f"shards/{path.name}", path.stat().st_size, file_sha256(path))


def _receipt_path(folder: Path, task: Task) -> Path:
    return folder / "shards" / f"{task.index:05d}.json"


def run_tasks(
    tasks: Sequence[Task], output: TokenOutput, workers: int, progress: ProgressCallback | None = None
) -> tuple[list[Receipt], str]:
    """Run the tasks without a receipt; return all receipts in order, and the name of the encoder."""
    receipts = {task.index: receipt for task in tasks if (receipt := read_receipt(output.folder, task))}
    if receipts:
        logger.info("%d of %d tasks were finished before", len(receipts), len(tasks))
    remaining = [task for task in tasks if task.index not in receipts]
    total = sum(task.text_bytes for task in tasks)
    done_bytes = total - sum(task.text_bytes for task in remaining)
    backend = "none: all shards were there"

    def report(text_bytes: int) -> None:
        nonlocal done_bytes
        done_bytes += text_bytes
        if progress:
            progress(min(done_bytes, total), total)

    report(0)
    if len(remaining) == 1:  # a process would take longer to start than most such tasks to run
        maker = ShardMaker(output)
        receipts[remaining[0].index] = maker.run(remaining[0], report)
        backend = maker.backend
    else:
        results = map_in_processes(partial(_run_task, output), remaining, workers)
        for number, (receipt, backend) in results:  # noqa: B007 - it is read after the loop
            receipts[remaining[number].index] = receipt
            report(remaining[number].text_bytes)
        if backend == ReferenceEncoder.name:
            logger.warning("the text was encoded with the reference, which is some 40 times slower than fastokens")
    return [receipts[task.index] for task in tasks], backend


def _run_task(output: TokenOutput, task: Task) -> tuple[Receipt, str]:
    maker = _shard_maker(output)
    return maker.run(task), maker.backend


_shard_maker = lru_cache(maxsize=1)(ShardMaker)


def _read_task(task: Task, defects: TextDefects) -> Iterator[tuple[Split, Document]]:
    config = task.config
    for file_range in task.file_ranges:
        split: Split = file_range.split or "train"
        for document in read_documents(file_range, config, defects):
            if file_range.split is None and document.starts_document:
                split = document_split(document.text, config.validation_fraction, document.chat_sha256)
            yield split, document


@dataclass
class _OpenShard:
    """Holds the tokens of a growing shard in memory, as the shard is written at once with its hash."""

    output: TokenOutput
    split: Split
    chat: ChatTokens | None
    token_arrays: list[Tokens] = field(default_factory=list[Tokens])
    mask_arrays: list[NDArray[np.uint8]] = field(default_factory=list[NDArray[np.uint8]])
    document_ends: list[Indices] = field(default_factory=list[Indices])
    tokens: int = 0
    text_bytes: int = 0
    max_id: int = 0
    num_written: int = 0

    def add(self, documents: Sequence[Document], ids: NDArray[np.uint32], lengths: Indices) -> None:
        """Append documents: `ids` (tokens,) of all documents in order, `lengths` (documents,) of each."""
        starts_document = np.fromiter((document.starts_document for document in documents), bool, len(documents))
        ends_document = np.fromiter((document.ends_document for document in documents), bool, len(documents))
        # <|im_start|> before a message, <|im_end|> and a line end after it
        num_chat = 0 if self.chat is None else 3
        end_id = self.output.end_id
        has_end = np.zeros_like(ends_document) if end_id is None else ends_document  # an end token after the text
        stops = np.cumsum(lengths + starts_document + num_chat + has_end)
        starts = stops - lengths - starts_document - num_chat - has_end
        special = {self.output.delimiter_id: starts[starts_document]}
        if end_id is not None:
            special[end_id] = stops[has_end] - 1
        if self.chat is not None:
            special[self.chat.start_id] = starts + starts_document
            special |= {self.chat.end_id: stops - has_end - 2, self.chat.newline_id: stops - has_end - 1}
        out = np.empty(stops[-1], token_dtype(self.output.vocab_size))
        is_text = np.ones(out.size, bool)
        for token, positions in special.items():
            out[positions] = token
            is_text[positions] = False
        out[is_text] = ids
        self.max_id = max(self.max_id, int(ids.max(initial=0)), *special)
        if self.max_id >= self.output.vocab_size:
            raise DataError(
                f"the encoder gave id {self.max_id}, the tokenizer has {self.output.vocab_size} ids",
                "report this with the tokenizer",
            )
        self.token_arrays.append(out)
        self.document_ends.append(self.tokens + stops[ends_document])
        self.tokens += out.size
        if self.chat is None:
            self.text_bytes += sum(_utf8_bytes(document.text) for document in documents)
        else:
            self._mask(documents, out, stops - has_end - 2 - lengths, stops - has_end - 2)

    def _mask(self, documents: Sequence[Document], out: Tokens, starts: Indices, stops: Indices) -> None:
        """Append the mask of learned tokens: the contents of answers, and the <|im_end|> after them."""
        assert self.chat is not None
        mask = np.zeros(out.size, np.uint8)
        for document, start, stop in zip(documents, starts.tolist(), stops.tolist(), strict=True):
            if document.role == ANSWER:
                mask[start + self.chat.header_tokens(out[start:stop], ANSWER) : stop + 1] = 1
                self.text_bytes += _utf8_bytes(document.text) - len(message_text(ANSWER, ""))
        self.mask_arrays.append(mask)

    def write(self, number: int, shards: list[Shard], files: list[FileEntry]) -> None:
        """Write the tokens as a shard, append it to the two lists, and start the next shard."""
        if not self.tokens:
            return
        suffix = f"_{self.num_written:03d}" if self.num_written else ""  # sorts after the first
        document_ends = np.concatenate(self.document_ends).astype(np.uint64)
        name = f"{self.split}-{number:05d}{suffix}"
        targets = None if self.chat is None else sum(int(mask.sum()) for mask in self.mask_arrays)
        shard = Shard(name, self.split, self.tokens, document_ends.size, self.text_bytes, self.max_id, targets)
        files += write_shard(self.output.folder, shard, self.token_arrays, document_ends, self.mask_arrays)
        shards.append(shard)
        self.token_arrays, self.mask_arrays, self.document_ends = [], [], []
        self.tokens = self.text_bytes = self.max_id = 0
        self.num_written += 1


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


class _SelfCheck:
    """Compares an encoder with the reference on beginnings of documents, for a share of the time."""

    def __init__(self, encoder: ReferenceEncoder | FastEncoder, tokenizer_json: bytes) -> None:
        self._began = time.process_time()
        self._encoder = encoder
        self._reference = ReferenceEncoder(tokenizer_json)
        self._spent = time.process_time() - self._began
        self._is_first = True

    def run(self, documents: list[Document]) -> None:
        """Compare as many documents as time allows. Raises DataError for different ids."""
        for document in documents[:: max(1, len(documents) // _SELF_CHECKS_PER_BATCH)]:
            now = time.process_time()
            if self._spent > _SELF_CHECK_SHARE * (now - self._began) and not self._is_first:
                return
            self._is_first = False
            beginning = [document.text[:_SELF_CHECK_CHARACTERS]]
            ids, expected = self._encoder.encode(beginning)[0], self._reference.encode(beginning)[0]
            if not np.array_equal(ids, expected):
                raise DataError(
                    f"{document.source}, document at {document.position}: encoder {self._encoder.name} gives "
                    f"other ids than the reference for {beginning[0][:40]!r}",
                    f"uninstall {self._encoder.name} to use the reference, and report it",
                )
            self._spent += time.process_time() - now
