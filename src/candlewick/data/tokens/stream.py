"""Text on the Hub -> token shards, file after file, until there is enough: what is not needed is never fetched.

    listing -> file 0 -> tasks -> shards, file 0 goes; file 1, fetched meanwhile -> tasks -> shards ... -> sealed

Whole tasks are taken in their order until `data.max_tokens` tokens to train on are there; `data.max_documents`
cuts at a row. Work that was stopped fetches no file again that `train-stream.json` notes, and ends in the same
dataset.
"""

import json
import logging
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from candlewick.artifacts.build import ProgressCallback
from candlewick.artifacts.manifest import canonical_json, json_sha256, replace_durable
from candlewick.config import DataConfig
from candlewick.data.text.corpus import Corpus
from candlewick.data.text.documents import count_documents
from candlewick.data.text.file_ranges import FileRange, SourceFile, Split
from candlewick.data.text.holdout import assign_splits, row_offset
from candlewick.data.text.source_files import SourceFiles
from candlewick.data.tokens.encode import Receipt, Task, TokenOutput, read_receipt, run_tasks
from candlewick.data.tokens.plan import dataset_settings, group_ranges, make_tasks

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class TaskResults:
    """What is prepared so far: finished tasks in their order, with what each wrote."""

    tasks: list[Task] = field(default_factory=list[Task])
    receipts: list[Receipt] = field(default_factory=list[Receipt])
    documents: int = 0  # rows that were read, of text for training
    backend: str = ""  # the name of the encoder

    @property
    def tokens(self) -> int:
        """Tokens to train on."""
        return sum(s.tokens for receipt in self.receipts for s in receipt.shards if s.split == "train")


@dataclass
class StreamPreparation:
    """Prepares the files of one side into `done`; the tasks of a file are run two per worker at a time."""

    files: SourceFiles
    side: Split
    results: TaskResults
    output: TokenOutput
    identity: str
    hold_out: bool
    workers: int
    progress: ProgressCallback | None = None

    def __post_init__(self) -> None:
        self.config: DataConfig = self.files.config
        is_bounded = self.side == "train"  # all is read for validation
        self.max_tokens = self.config.max_tokens if is_bounded else None
        self.max_documents = self.config.max_documents if is_bounded else None

    def prepare(self) -> None:
        """Prepare the files that are not finished, until there is enough."""
        done, folder = self.results, self.output.folder
        notes, fetched = folder / f"{self.side}-stream.json", folder / "fetched"
        # of all that decides what the files become
        settings = dataset_settings(self.config, hold_out=self.hold_out)
        limits = [self.config.max_tokens, self.config.max_documents]
        key = json_sha256([self.identity, self.files.fingerprint, settings, limits, len(done.tasks)])
        finished = self._restore(notes, key)
        sizes = [file.bytes for file in self.files.files]
        is_bounded = (self.max_tokens or self.max_documents) is not None
        if not self._reached_limit():
            for number, file in self.files.iter_downloaded(len(finished), fetched, 0 if is_bounded else 1):
                first, before = len(done.tasks), done.documents
                self._prepare_file(file)
                keys = [[task.index, task.key] for task in done.tasks[first:]]
                finished.append({"tasks": keys, "documents": done.documents - before})
                replace_durable(notes, canonical_json({"key": key, "files": finished}))
                if self.progress and self.config.max_tokens is None:
                    self.progress(sum(sizes[: number + 1]), sum(sizes))
                if self._reached_limit():
                    break
        shutil.rmtree(fetched, ignore_errors=True)
        if self.max_tokens is not None and not self._reached_limit():
            about = done.tokens, self.max_tokens
            logger.warning("the source has %d tokens to train on, fewer than the %d wanted", *about)

    def _restore(self, notes: Path, key: str) -> list[dict[str, object]]:
        """Take over the files that a former process has finished; stops at the first whose shards are damaged."""
        finished: list[dict[str, object]] = []
        try:
            raw = json.loads(notes.read_bytes())
            for noted in raw["files"] if raw["key"] == key else ():
                tasks = [Task(index, (), 0, key, self.config) for index, key in noted["tasks"]]
                receipts = [read_receipt(self.output.folder, task) for task in tasks]
                if None in receipts:
                    break
                self.results.tasks += tasks
                self.results.receipts += [receipt for receipt in receipts if receipt is not None]
                self.results.documents += noted["documents"]
                finished.append(noted)
        except (OSError, ValueError, KeyError, TypeError):
            pass  # what is noted before counts
        return finished

    def _prepare_file(self, file: SourceFile) -> None:
        done, corpus = self.results, Corpus((file,), self.config)
        groups = list(group_ranges([self._file_range(corpus)], corpus))
        hashes = {file: corpus.hashes[0]}
        tasks = make_tasks(groups, hashes, self.identity, self.config, self.hold_out, first=len(done.tasks))
        for start in range(0, len(tasks), 2 * self.workers):
            wave = tasks[start : start + 2 * self.workers]
            receipts, done.backend = run_tasks(wave, self.output, self.workers)
            for task, receipt in zip(wave, receipts, strict=True):
                if self._reached_max_tokens():
                    return  # the rest of the wave is swept
                done.tasks.append(task)
                done.receipts.append(receipt)
            if self.progress and self.max_tokens is not None:
                self.progress(min(done.tokens, self.max_tokens), self.max_tokens)

    def _file_range(self, corpus: Corpus) -> FileRange:
        """Return the file of a corpus, cut where there are enough rows."""
        (file,) = corpus.files
        stop = None
        if self.max_documents is not None:
            left = self.max_documents - self.results.documents
            rows = count_documents(FileRange(file), self.config, left + 1)
            if rows > left and file.kind != "text":
                rows, stop = left, row_offset(file, left, frozenset())
            self.results.documents += rows
        if self.side == "validation":
            return FileRange(file, split="validation")
        (piece,) = assign_splits(corpus, "hash" if self.hold_out else "given")
        return replace(piece, stop=stop)

    def _reached_max_tokens(self) -> bool:
        return self.max_tokens is not None and self.results.tokens >= self.max_tokens

    def _reached_limit(self) -> bool:
        has_documents = self.max_documents is not None and self.results.documents >= self.max_documents
        return has_documents or self._reached_max_tokens()
