"""One text becomes token shards: files at hand -> tasks -> receipts, in order, until there is enough.

    file 0, file 1, downloaded meanwhile, ... --plan--> tasks --worker processes--> shards, receipts --> journal

The journal lists the finished tasks with what comes after each. After a stop the next process goes on there: it
neither reads nor downloads what lies before, and ends in the same shards.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from pathlib import Path

from candlewick.artifacts.build import ProgressCallback
from candlewick.artifacts.manifest import canonical_json, json_sha256, read_bounded
from candlewick.data.text.corpus import Corpus
from candlewick.data.text.documents import count_documents, row_offset, text_size
from candlewick.data.text.downloads import Downloads
from candlewick.data.text.file_ranges import BOM, FileRange, Split, TextFile
from candlewick.data.text.holdout import HASHED_CHARACTERS, document_split
from candlewick.data.tokens.dataset import VERSION
from candlewick.data.tokens.encode import (
    BEGINNING,
    Continuation,
    Position,
    Receipt,
    ShardMaker,
    Task,
    TokenOutput,
    read_receipt,
    run_task,
)
from candlewick.data.tokens.plan import group_files, make_task
from candlewick.data.tokens.workers import map_in_order
from candlewick.tokenizer.encoder import ReferenceEncoder

_HEAD_BYTES = len(BOM) + 4 * HASHED_CHARACTERS
_BYTES_PER_TOKEN = 3  # seldom fewer: text is not taken for less than it has
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class TaskResults:
    """The finished tasks of all texts in their order, with their receipts."""

    tasks: list[Task] = field(default_factory=list[Task])
    receipts: list[Receipt] = field(default_factory=list[Receipt])
    tokens: int = 0  # of training
    backend: str = "none: all shards were there"  # the name of the encoder

    def add(self, task: Task, receipt: Receipt, backend: str = "") -> None:
        """Append a finished task; `backend` is "" if its shards were there."""
        self.tasks.append(task)
        self.receipts.append(receipt)
        self.tokens += sum(shard.tokens for shard in receipt.shards if shard.split == "train")
        self.backend = backend or self.backend


@dataclass
class TextPipeline:
    """Encodes one text into `results`: training text, of which a part is held out, or validation text."""

    corpus: Corpus
    side: Split
    results: TaskResults
    output: TokenOutput
    key: str  # stands for the tokenizer and the settings
    piece_bytes: int
    workers: int
    share: float = 0.0  # of the documents, held out by their hash
    tails: Mapping[TextFile, tuple[FileRange, ...]] = field(default_factory=dict[TextFile, tuple[FileRange, ...]])
    max_tokens: int | None = None
    max_documents: int | None = None
    begin: Continuation = BEGINNING
    progress: ProgressCallback | None = None

    def __post_init__(self) -> None:
        self._end = self.begin
        self._rows = self.begin.rows  # of the files so far, counted if `max_documents` is set
        self._rows_before: dict[int, int] = {}  # a file, by its number
        self._planned = self._finished = 0  # bytes of text in tasks, about
        self._file_ends = [*accumulate((file.bytes for file in self.corpus.files), initial=0)]

    def run(self) -> Continuation | None:
        """Run the tasks that are not finished, until a limit is reached; return where more tokens come from."""
        journal, downloads = self.output.folder / f"{self.side}-journal.jsonl", self.output.folder / "fetched"
        self._first = len(self.results.tasks)
        start = self._restore(journal)
        self._downloads, work = Downloads(self.corpus, downloads), partial(run_task, self.output)
        done = map_in_order(work, self._tasks(start), self.workers, self._run_alone)
        with self._downloads, closing(done), journal.open("ab") as file:
            for task, (receipt, backend) in done:
                self.results.add(task, receipt, backend)
                rows = self._rows_before.get(task.next.file, self._rows)
                entry = {"index": task.index, "key": task.key, "next": task.next, "rows": rows}
                self._end = Continuation(task.index + 1, task.next, rows)
                file.write(canonical_json(entry) + b"\n")
                file.flush()
                os.fsync(file.fileno())
                self._downloads.release(task.next.file)
                self._finished += task.text_bytes
                self._report(task.next)
                if self._has_enough():
                    break
        if self.results.backend == ReferenceEncoder.name:
            logger.warning("the text was encoded with the reference, which is some 40 times slower than fastokens")
        if self.max_tokens is not None and not self._has_enough():
            counts = self.results.tokens, self.max_tokens
            logger.warning("the source has %d tokens to train on, fewer than the %d wanted", *counts)
        is_whole = self._end.position.file == len(self.corpus.files)
        return self._end if self._has_enough() and not is_whole else None

    def _restore(self, journal: Path) -> Position:
        """Add the tasks that a former process finished, up to the first with a damaged shard; return their end."""
        tails = [part.identity("") for file in self.corpus.files for part in self.tails.get(file, ())]
        settings = VERSION, self.max_documents, tails, len(self.results.tasks), self.begin
        key, position = json_sha256([self.key, self.corpus.fingerprint, *settings]), self.begin.position
        lines = [canonical_json({"key": key})]
        try:
            head, *entries = read_bounded(journal).split(b"\n")
            for line in entries[:-1] if head == lines[0] else ():
                entry = json.loads(line)
                task = Task(entry["index"], (), 0, entry["key"], self.corpus.reading)
                receipt = read_receipt(self.output.folder, task)
                if receipt is None or self._has_enough():
                    break
                self.results.add(task, receipt)
                position, self._rows = Position(*entry["next"]), entry["rows"]
                self._end = Continuation(task.index + 1, position, self._rows)
                lines.append(line)
        except (OSError, ValueError, KeyError, TypeError):
            pass  # the tasks before it count
        if len(lines) > 1:
            logger.info("%d tasks were finished before", len(lines) - 1)
        journal.write_bytes(b"".join(line + b"\n" for line in lines))
        self._report(position)
        return position

    def _tasks(self, start: Position) -> Iterator[Task | None]:
        index = self.begin.tasks + len(self.results.tasks)
        number = index - self._first
        for group in group_files(
            self._files(start.file), self._ranges, self.corpus, self.piece_bytes, start, number
        ):
            if group is None:
                yield None
                continue
            self._planned += group.text_bytes
            yield make_task(index, group, self.corpus.reading, self.share, self.key)
            index += 1

    def _files(self, first: int) -> Iterator[tuple[int, TextFile] | None]:
        files = self._downloads.files(first, self._wants_next)
        while self.max_documents is None or self._rows < self.max_documents:
            if not self.corpus.is_local and self._may_be_enough():
                yield None  # the tasks so far tell whether it is
            if self._has_enough() or (item := next(files, None)) is None:
                return
            self._rows_before[item[0]] = self._rows
            yield item

    def _ranges(self, file: TextFile) -> list[FileRange]:
        """Return the ranges of a file with their splits, training text only until there are enough rows."""
        if file in self.tails:
            ranges = self.tails[file]
        elif self.side == "validation":
            ranges = (FileRange(file, split="validation"),)
        else:
            ranges = (self._whole(file),)
        return [self._limited(part) if part.split != "validation" else part for part in ranges]

    def _limited(self, part: FileRange) -> FileRange:
        if self.max_documents is None:
            return part
        remaining, stop, file = self.max_documents - self._rows, part.stop, part.file
        rows = count_documents(part, self.corpus.reading, remaining + 1)
        if rows > remaining and file.kind != "text":  # never beyond the part, behind which text may be held out
            rows, end = remaining, row_offset(file, remaining, self.corpus.reading)
            stop = end if stop is None or end is None else min(end, stop)
        self._rows += rows
        return replace(part, stop=stop)

    def _whole(self, file: TextFile) -> FileRange:
        """Return a file as one range; of a large document, which is cut, the split is decided here."""
        split: Split | None = None if self.share else "train"
        if split is None and file.kind == "text" and text_size(file, self.corpus.reading) > self.piece_bytes:
            text = next(FileRange(file).read_blocks(_HEAD_BYTES), b"").removeprefix(BOM).decode(errors="replace")
            split = document_split(text, self.share)
        return FileRange(file, split=split)

    def _wants_next(self, file: TextFile) -> bool:
        """Return whether the file after this one should be downloaded already."""
        is_counted = file.kind == "parquet" and self.max_documents is not None
        rows = count_documents(FileRange(file), self.corpus.reading) if is_counted else 0
        return not self._may_be_enough(text_size(file, self.corpus.reading), rows)

    def _may_be_enough(self, more_bytes: int = 0, more_rows: int = 0) -> bool:
        if self.max_documents is not None and self._rows + more_rows >= self.max_documents:
            return True
        tokens = self.results.tokens + (self._planned - self._finished + more_bytes) // _BYTES_PER_TOKEN
        return self.max_tokens is not None and tokens >= self.max_tokens

    def _has_enough(self) -> bool:
        return self.max_tokens is not None and self.results.tokens >= self.max_tokens

    def _run_alone(self, task: Task) -> tuple[Receipt, str]:
        if (receipt := read_receipt(self.output.folder, task)) is not None:
            return receipt, ""
        maker, done = ShardMaker(self.output), 0

        def on_bytes(size: int) -> None:
            nonlocal done
            done += size
            if self.progress:
                self.progress(min(done, task.text_bytes), task.text_bytes)

        return maker.run(task, on_bytes), maker.backend

    def _report(self, position: Position) -> None:
        if self.progress is None:
            return
        if self.max_tokens is not None:
            self.progress(min(self.results.tokens, self.max_tokens), self.max_tokens)
            return
        ends = self._file_ends
        done = ends[position.file]
        if position.part:  # pieces of this file
            done = min(done + self.piece_bytes * position.part, ends[position.file + 1])
        self.progress(done, ends[-1])
