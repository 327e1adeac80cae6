"""One task of a preparation: pieces of text in, token shards and a receipt out. Runs in a worker process.

    pieces --read--> documents --batches of a few MiB--> ids --delimiters in--> train-00007.bin .idx
                                                                                validation-00007.bin .idx
                                                                                00007.json, the receipt, last

A task is all that its shards depend on: any process on any machine writes the same bytes. No torch is imported.
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
from candlewick.artifacts.manifest import FileEntry, canonical_json, file_sha256, replace_durable
from candlewick.config import DataConfig
from candlewick.data.text.documents import Document, TextDefects, read_documents
from candlewick.data.text.file_ranges import SPLITS, FileRange, Split
from candlewick.data.text.holdout import document_split
from candlewick.data.tokens.dataset import Shard, Tokens, token_dtype, write_shard
from candlewick.data.tokens.workers import map_in_processes
from candlewick.errors import DataError
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.chat import ANSWER, ChatTokens, message_text
from candlewick.tokenizer.encoder import Encoded, FastEncoder, ReferenceEncoder, batched, make_encoder

_BATCH_CHARACTERS = 2 << 20
_BATCH_DOCUMENTS = 1 << 15
_SELF_CHECK_CHARACTERS = 512
_SELF_CHECK_SHARE = 0.03
_SELF_CHECKS_PER_BATCH = 32
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Task:
    """What becomes one shard per split. The key is the hash of all that decides its content."""

    index: int
    pieces: tuple[FileRange, ...]
    text_bytes: int  # about
    key: str
    config: DataConfig


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a finished task wrote; lies beside its shards so that they are not made twice."""

    key: str
    shards: tuple[Shard, ...]
    files: tuple[FileEntry, ...]
    bad_utf8: TextDefects


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """Where shards go and what their ids mean. `folder`/tokenizer/tokenizer.json is the tokenizer."""

    folder: Path
    vocab_size: int
    delimiter_id: int
    end_id: int | None = None


class ShardMaker:
    """Runs tasks one after another with one encoder, whose cache grows with the text."""

    def __init__(self, target: TokenOutput) -> None:
        self.output = target
        self._tokenizer = Tokenizer.load(target.folder / "tokenizer")
        tokenizer_json, going_on = self._tokenizer.encoder_json, self._tokenizer.continuation_json
        self._encoder = make_encoder(tokenizer_json)
        is_checked = not isinstance(self._encoder, ReferenceEncoder)
        self._self_check = _SelfCheck(self._encoder, tokenizer_json) if is_checked else None
        self.backend = self._encoder.name
        self._continuation = self._encoder if going_on is None else make_encoder(going_on)

    @cached_property
    def _chat(self) -> ChatTokens:
        return ChatTokens(self._tokenizer)

    def run(self, task: Task, on_bytes: Callable[[int], None] | None = None) -> Receipt:
        """Write the shards of a task and return the receipt. Raises DataError for text that cannot be used."""
        bad = TextDefects()
        shards: list[Shard] = []
        files: list[FileEntry] = []
        chat = self._chat if task.config.format == "chat" else None
        open_shards = {split: _OpenShard(self.output, split, chat) for split in SPLITS}
        documents = _read_task(task, bad)
        for batch in batched(documents, lambda item: len(item[1].text), _BATCH_CHARACTERS, _BATCH_DOCUMENTS):
            for split, own in open_shards.items():
                if mine := [document for place, document in batch if place == split]:
                    own.add(mine, *self._encode(mine, is_chat=chat is not None))
                # a compressed file, of unknown length; of a chat the text is that of the answers alone
                if max(own.text_bytes, own.tokens) > 2 * task.config.shard_text_bytes:
                    own.write(task.index, shards, files)
            if on_bytes:
                on_bytes(sum(len(document.text) for _, document in batch))
        for own in open_shards.values():
            own.write(task.index, shards, files)
        receipt = Receipt(task.key, tuple(shards), tuple(files), bad)
        replace_durable(_receipt_path(self.output.folder, task), canonical_json(asdict(receipt)))
        return receipt

    def _encode(self, documents: list[Document], *, is_chat: bool) -> Encoded:
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
    """Return the receipt of a task if it was finished before and its files are whole, else None."""
    try:
        receipt = TypeAdapter(Receipt).validate_json(_receipt_path(folder, task).read_bytes())
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
    tasks: Sequence[Task], target: TokenOutput, workers: int, progress: ProgressCallback | None = None
) -> tuple[list[Receipt], str]:
    """Run the tasks that have no receipt yet; return all receipts in order, and the name of the encoder."""
    receipts = {task.index: receipt for task in tasks if (receipt := read_receipt(target.folder, task))}
    if receipts:
        logger.info("%d of %d tasks were finished before", len(receipts), len(tasks))
    todo = [task for task in tasks if task.index not in receipts]
    total = sum(task.text_bytes for task in tasks)
    done = total - sum(task.text_bytes for task in todo)
    backend = "none: all shards were there"

    def report(text_bytes: int) -> None:
        nonlocal done
        done += text_bytes
        if progress:
            progress(min(done, total), total)

    report(0)
    if len(todo) == 1:  # a process would take longer to start than most such tasks to run
        maker = ShardMaker(target)
        receipts[todo[0].index] = maker.run(todo[0], report)
        backend = maker.backend
    else:
        for number, (receipt, backend) in map_in_processes(partial(_run_task, target), todo, workers):  # noqa: B007
            receipts[todo[number].index] = receipt
            report(todo[number].text_bytes)
        if backend == ReferenceEncoder.name:
            logger.warning("the text was encoded with the reference, which is some 40 times slower than fastokens")
    return [receipts[task.index] for task in tasks], backend


def _run_task(target: TokenOutput, task: Task) -> tuple[Receipt, str]:
    maker = _shard_maker(target)
    return maker.run(task), maker.backend


_shard_maker = lru_cache(maxsize=1)(ShardMaker)


def _read_task(task: Task, bad: TextDefects) -> Iterator[tuple[Split, Document]]:
    config = task.config
    for piece in task.pieces:
        split: Split = piece.split or "train"
        for document in read_documents(piece, config, bad):
            if piece.split is None and document.starts_document:
                split = document_split(document.text, config.validation_fraction, document.chat_sha256)
            yield split, document


@dataclass
class _OpenShard:
    """The tokens of a shard while it grows; in memory, as it is written at once with its hash."""

    output: TokenOutput
    split: Split
    chat: ChatTokens | None
    token_arrays: list[Tokens] = field(default_factory=list[Tokens])
    mask_arrays: list[NDArray[np.uint8]] = field(default_factory=list[NDArray[np.uint8]])
    document_ends: list[NDArray[np.int64]] = field(default_factory=list[NDArray[np.int64]])
    tokens: int = 0
    text_bytes: int = 0
    max_id: int = 0
    num_written: int = 0

    def add(self, documents: Sequence[Document], ids: NDArray[np.uint32], lengths: NDArray[np.int64]) -> None:
        """Append documents: `ids` of all of them, one after another, with the `lengths` of each."""
        begins = np.fromiter((document.starts_document for document in documents), bool, len(documents))
        ends = np.fromiter((document.ends_document for document in documents), bool, len(documents))
        around = 0 if self.chat is None else 3  # <|im_start|> before a message, <|im_end|> and a line end after it
        end_id = self.output.end_id
        after = np.zeros_like(ends) if end_id is None else ends  # an end token after the text
        stops = np.cumsum(lengths + begins + around + after)
        firsts = stops - lengths - begins - around - after
        special = {self.output.delimiter_id: firsts[begins]}
        if end_id is not None:
            special[end_id] = stops[after] - 1
        if self.chat is not None:
            special[self.chat.start_id] = firsts + begins
            special |= {self.chat.end_id: stops - after - 2, self.chat.newline_id: stops - after - 1}
        out = np.empty(stops[-1], token_dtype(self.output.vocab_size))
        is_text = np.ones(out.size, bool)
        for token, places in special.items():
            out[places] = token
            is_text[places] = False
        out[is_text] = ids
        self.max_id = max(self.max_id, int(ids.max(initial=0)), *special)
        if self.max_id >= self.output.vocab_size:
            raise DataError(
                f"the encoder gave id {self.max_id}, the tokenizer has {self.output.vocab_size} ids",
                "report this with the tokenizer",
            )
        self.token_arrays.append(out)
        self.document_ends.append(self.tokens + stops[ends])
        self.tokens += out.size
        if self.chat is None:
            self.text_bytes += sum(_utf8_bytes(document.text) for document in documents)
        else:
            self._mask(documents, out, stops - after - 2 - lengths, stops - after - 2)

    def _mask(
        self, documents: Sequence[Document], out: Tokens, starts: NDArray[np.int64], stops: NDArray[np.int64]
    ) -> None:
        """Append which tokens are learned: of answers the contents, and the <|im_end|> where a text stops."""
        assert self.chat is not None
        mask = np.zeros(out.size, np.uint8)
        for document, start, stop in zip(documents, starts.tolist(), stops.tolist(), strict=True):
            if document.role == ANSWER:
                mask[start + self.chat.header_tokens(out[start:stop], ANSWER) : stop + 1] = 1
                self.text_bytes += _utf8_bytes(document.text) - len(message_text(ANSWER, ""))
        self.mask_arrays.append(mask)

    def write(self, number: int, shards: list[Shard], files: list[FileEntry]) -> None:
        """Write what there is, append to the two lists, and start anew."""
        if not self.tokens:
            return
        suffix = f"_{self.num_written:03d}" if self.num_written else ""  # sorts behind the first
        ends = np.concatenate(self.document_ends).astype(np.uint64)
        name = f"{self.split}-{number:05d}{suffix}"
        targets = None if self.chat is None else sum(int(mask.sum()) for mask in self.mask_arrays)
        shard = Shard(name, self.split, self.tokens, ends.size, self.text_bytes, self.max_id, targets)
        files += write_shard(self.output.folder, shard, self.token_arrays, ends, self.mask_arrays)
        shards.append(shard)
        self.token_arrays, self.mask_arrays, self.document_ends = [], [], []
        self.tokens = self.text_bytes = self.max_id = 0
        self.num_written += 1


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


class _SelfCheck:
    """Compares an encoder with the reference on beginnings of documents, within a share of the time."""

    def __init__(self, encoder: ReferenceEncoder | FastEncoder, tokenizer_json: bytes) -> None:
        self._began = time.process_time()
        self._encoder = encoder
        self._reference = ReferenceEncoder(tokenizer_json)
        self._spent = time.process_time() - self._began
        self._is_first = True

    def run(self, documents: list[Document]) -> None:
        """Check as many of the documents as there is time for. Raises DataError if one is encoded otherwise."""
        for document in documents[:: max(1, len(documents) // _SELF_CHECKS_PER_BATCH)]:
            now = time.process_time()
            if self._spent > _SELF_CHECK_SHARE * (now - self._began) and not self._is_first:
                return
            self._is_first = False
            beginning = [document.text[:_SELF_CHECK_CHARACTERS]]
            found, expected = self._encoder.encode(beginning)[0], self._reference.encode(beginning)[0]
            if not np.array_equal(found, expected):
                raise DataError(
                    f"{document.source}, document at {document.position}: encoder {self._encoder.name} gives "
                    f"other ids than the reference for {beginning[0][:40]!r}",
                    f"uninstall {self._encoder.name} to use the reference, and report it",
                )
            self._spent += time.process_time() - now
