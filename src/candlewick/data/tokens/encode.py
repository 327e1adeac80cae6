"""A task encodes ranges of files into token shards and a receipt; it runs in a worker process.

    ranges --read--> documents --batches of a few MiB--> ids --delimiters in--> train-00007.bin .idx
                                                                                validation-00007.bin .idx
                                                                                00007.json, the receipt, last

The shards depend on the task alone: any process on any machine writes the same bytes. No torch is imported.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from candlewick.artifacts.durable import DurableFile
from candlewick.artifacts.manifest import (
    FileEntry,
    canonical_json,
    file_sha256,
    read_bounded,
    replace_durable,
)
from candlewick.data.text.documents import Document, TextDefects, read_documents
from candlewick.data.text.file_ranges import SPLITS, FileRange, Split
from candlewick.data.text.holdout import document_split
from candlewick.data.text.reading import Reading
from candlewick.data.tokens.dataset import Indices, Shard, Tokens, token_dtype
from candlewick.data.tokens.token_files import TokenFile
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


class Position(NamedTuple):
    """A place in a corpus: the number of a file, and how many of its ranges lie before."""

    file: int
    part: int


START = Position(0, 0)


class Continuation(NamedTuple):
    """Where the tasks go on: behind so many tasks, at a position before whose file so many rows lie."""

    tasks: int
    position: Position
    rows: int


BEGINNING = Continuation(0, START, 0)


@dataclass(frozen=True, slots=True)
class Task:
    """The text of one shard per split. The key is the hash of all that decides the shards."""

    index: int
    file_ranges: tuple[FileRange, ...]
    text_bytes: int  # about
    key: str
    reading: Reading
    share: float = 0.0  # of the documents whose range has no split: it is held out
    max_bytes: int = 0  # of text in a shard; a range whose size is not known becomes several shards
    next: Position = START  # what comes after it


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
        chat = self._chat if task.reading.format == "chat" else None
        open_shards: dict[Split, _OpenShard] = {
            split: _OpenShard(self.output, split, task.index, chat) for split in SPLITS
        }
        with ExitStack() as stack:
            for shard in open_shards.values():
                stack.callback(shard.discard)
            fill = self._copy if task.reading.format == "tokens" else self._fill
            for size in fill(task, open_shards, defects):
                for shard in open_shards.values():
                    # the length of a compressed file is unknown; of a chat, text_bytes counts the answers only
                    if max(shard.text_bytes, shard.tokens) > 2 * task.max_bytes:
                        shard.finish(shards, files)
                if on_bytes:
                    on_bytes(size)
            for shard in open_shards.values():
                shard.finish(shards, files)
        receipt = Receipt(task.key, tuple(shards), tuple(files), defects)
        replace_durable(_receipt_path(self.output.folder, task), canonical_json(asdict(receipt)))
        return receipt

    def _fill(self, task: Task, shards: Mapping[Split, "_OpenShard"], defects: TextDefects) -> Iterator[int]:
        """Encode a task's documents batch by batch; yield the characters of each batch."""
        documents = _read_task(task, defects)
        for batch in batched(documents, lambda item: len(item[1].text), _BATCH_CHARACTERS, _BATCH_DOCUMENTS):
            for split, shard in shards.items():
                if chosen := [document for name, document in batch if name == split]:
                    shard.add(chosen, *self._encode(chosen, is_chat=shard.chat is not None))
            yield sum(len(document.text) for _, document in batch)

    def _copy(self, task: Task, shards: Mapping[Split, "_OpenShard"], _: TextDefects) -> Iterator[int]:
        """Copy a task's tokens range by range; yield the bytes of their text."""
        for part in task.file_ranges:
            source = TokenFile.open(part.file, task.reading.token_dtype)
            ids, ends = source.read(part, self.output.delimiter_id, self.output.vocab_size)
            text_bytes = int(self._text_bytes[ids].sum())
            shards[part.split or "train"].append(ids, ends, text_bytes)
            yield text_bytes

    @cached_property
    def _text_bytes(self) -> Indices:
        """Return how many bytes of text each token stands for: of a special token none."""
        special, tokens = set(self._tokenizer.special_tokens.values()), range(self.output.vocab_size)
        return np.array([0 if token in special else len(self._tokenizer.token_bytes(token)) for token in tokens])

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


def run_task(output: TokenOutput, task: Task) -> tuple[Receipt, str]:
    """Return the receipt of a task, which is run unless it is finished, and the name of the encoder or ""."""
    if (receipt := read_receipt(output.folder, task)) is not None:
        return receipt, ""
    maker = _shard_maker(output)
    return maker.run(task), maker.backend


_shard_maker = lru_cache(maxsize=1)(ShardMaker)


def _read_task(task: Task, defects: TextDefects) -> Iterator[tuple[Split, Document]]:
    for file_range in task.file_ranges:
        split: Split = file_range.split or "train"
        for document in read_documents(file_range, task.reading, defects):
            if file_range.split is None and document.starts_document:
                split = document_split(document.chat_text or document.text, task.share)
            yield split, document


@dataclass
class _OpenShard:
    """Writes the files of one shard after another; no text or token of them stays in memory."""

    output: TokenOutput
    split: Split
    number: int  # of the task
    chat: ChatTokens | None
    files: dict[str, DurableFile] = field(default_factory=dict[str, DurableFile])
    tokens: int = 0
    documents: int = 0  # that end in the shard
    targets: int = 0
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
        text_bytes = 0 if self.chat is not None else sum(_utf8_bytes(document.text) for document in documents)
        self.append(out, stops[ends_document], text_bytes)
        if self.chat is not None:
            self._mask(documents, out, stops - has_end - 2 - lengths, stops - has_end - 2)

    def _mask(self, documents: Sequence[Document], out: Tokens, starts: Indices, stops: Indices) -> None:
        """Append the mask of learned tokens: the contents of answers, and the <|im_end|> after them."""
        assert self.chat is not None
        mask = np.zeros(out.size, np.uint8)
        for document, start, stop in zip(documents, starts.tolist(), stops.tolist(), strict=True):
            if document.role == ANSWER:
                mask[start + self.chat.header_tokens(out[start:stop], ANSWER) : stop + 1] = 1
                self.text_bytes += _utf8_bytes(document.text) - len(message_text(ANSWER, ""))
        self.targets += int(mask.sum())
        self._append("msk", mask)

    def append(self, ids: NDArray[np.integer], ends: Indices, text_bytes: int) -> None:
        """Append tokens (n,) with their delimiters, and where documents end in them."""
        if not ids.size:
            return
        self._append("bin", ids.astype(token_dtype(self.output.vocab_size), copy=False))
        self._append("idx", (self.tokens + ends).astype("<u8"))
        self.tokens += ids.size
        self.documents += len(ends)
        self.text_bytes += text_bytes
        self.max_id = max(self.max_id, int(ids.max()))

    def _append(self, extension: str, array: NDArray[Any]) -> None:
        if extension not in self.files:
            self.files[extension] = DurableFile(self.output.folder / f"shards/{self.name}.{extension}")
        self.files[extension].write(array.tobytes())

    @property
    def name(self) -> str:
        """The name of the shard, which sorts after that of the one before."""
        return f"{self.split}-{self.number:05d}" + (f"_{self.num_written:03d}" if self.num_written else "")

    def finish(self, shards: list[Shard], files: list[FileEntry]) -> None:
        """Finish the shard, append it to the two lists, and start the next one."""
        if not self.tokens:
            return
        targets = None if self.chat is None else self.targets
        counts = self.tokens, self.documents, self.text_bytes, self.max_id, targets
        shards.append(Shard(self.name, self.split, *counts))
        files += [file.commit(f"shards/{file.path.name}") for file in self.files.values()]
        self.files = {}
        self.tokens = self.documents = self.targets = self.text_bytes = self.max_id = 0
        self.num_written += 1

    def discard(self) -> None:
        """Remove the files of a shard that is not finished."""
        for file in self.files.values():
            file.discard()


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
