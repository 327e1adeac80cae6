"""Stream text of the Hub into token shards, file after file, until there is enough; the rest is not downloaded.

    listing -> file 0 -> tasks -> shards, file 0 removed; file 1, downloaded meanwhile -> tasks -> shards ...

Tasks are run in their order until `data.max_tokens` training tokens are there; `data.max_documents` cuts at a row.
After a stop the next process downloads no file again that `train-stream.json` lists, and ends in the same dataset.
"""

import json
import logging
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from candlewick.artifacts.build import ProgressCallback
from candlewick.artifacts.manifest import (
    canonical_json,
    json_sha256,
    read_bounded,
    replace_durable,
)
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
    """The finished tasks in their order, with their receipts."""

    tasks: list[Task] = field(default_factory=list[Task])
    receipts: list[Receipt] = field(default_factory=list[Receipt])
    documents: int = 0  # rows of training text that were read
    backend: str = ""  # the name of the encoder

    @property
    def tokens(self) -> int:
        """The number of training tokens."""
        return sum(s.tokens for receipt in self.receipts for s in receipt.shards if s.split == "train")


@dataclass
class StreamPreparation:
    """Encodes the files of one side into `results`; the tasks of a file run two per worker at a time."""

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
        is_bounded = self.side == "train"  # validation text is read to the end
        self.max_tokens = self.config.max_tokens if is_bounded else None
        self.max_documents = self.config.max_documents if is_bounded else None

    def prepare(self) -> None:
        """Encode the files that are not finished, until a limit is reached."""
        results, folder = self.results, self.output.folder
        state_path, downloads = folder / f"{self.side}-stream.json", folder / "fetched"
        # the key covers all that decides the shards
        settings = dataset_settings(self.config, hold_out=self.hold_out)
        limits = [self.config.max_tokens, self.config.max_documents]
        key = json_sha256([self.identity, self.files.fingerprint, settings, limits, len(results.tasks)])
        finished_files = self._restore(state_path, key)
        sizes = [file.bytes for file in self.files.files]
        ahead = 1 if self.max_tokens is None and self.max_documents is None else 0
        downloaded = self.files.iter_downloaded(
            len(finished_files), downloads, ahead, lambda _: not self._reached_limit()
        )
        for number, file in downloaded:
            first, num_documents = len(results.tasks), results.documents
            self._prepare_file(file)
            keys = [[task.index, task.key] for task in results.tasks[first:]]
            finished_files.append({"tasks": keys, "documents": results.documents - num_documents})
            replace_durable(state_path, canonical_json({"key": key, "files": finished_files}))
            if self.progress and self.config.max_tokens is None:
                self.progress(sum(sizes[: number + 1]), sum(sizes))
        shutil.rmtree(downloads, ignore_errors=True)
        if self.max_tokens is not None and not self._reached_limit():
            counts = results.tokens, self.max_tokens
            logger.warning("the source has %d tokens to train on, fewer than the %d wanted", *counts)

    def _restore(self, state_path: Path, key: str) -> list[dict[str, object]]:
        """Return the entries of files that a former process finished, up to the first with a damaged shard."""
        finished_files: list[dict[str, object]] = []
        try:
            state = json.loads(read_bounded(state_path))
            for entry in state["files"] if state["key"] == key else ():
                tasks = [Task(index, (), 0, key, self.config) for index, key in entry["tasks"]]
                receipts = [read_receipt(self.output.folder, task) for task in tasks]
                if None in receipts:
                    break
                self.results.tasks += tasks
                self.results.receipts += [receipt for receipt in receipts if receipt is not None]
                self.results.documents += entry["documents"]
                finished_files.append(entry)
        except (OSError, ValueError, KeyError, TypeError):
            pass  # the entries before it count
        return finished_files

    def _prepare_file(self, file: SourceFile) -> None:
        results, corpus = self.results, Corpus((file,), self.config)
        groups = list(group_ranges([self._file_range(corpus)], corpus))
        hashes = {file: corpus.hashes[0]}
        tasks = make_tasks(groups, hashes, self.identity, self.config, self.hold_out, first=len(results.tasks))
        for start in range(0, len(tasks), 2 * self.workers):
            wave = tasks[start : start + 2 * self.workers]
            receipts, results.backend = run_tasks(wave, self.output, self.workers)
            for task, receipt in zip(wave, receipts, strict=True):
                if self._reached_max_tokens():
                    return  # the files of the other tasks are removed later
                results.tasks.append(task)
                results.receipts.append(receipt)
            if self.progress and self.max_tokens is not None:
                self.progress(min(results.tokens, self.max_tokens), self.max_tokens)

    def _file_range(self, corpus: Corpus) -> FileRange:
        """Return the range of a one-file corpus, cut where there are enough rows."""
        (file,) = corpus.files
        stop = None
        if self.max_documents is not None:
            remaining = self.max_documents - self.results.documents
            rows = count_documents(FileRange(file), self.config, remaining + 1)
            if rows > remaining and file.kind != "text":
                rows, stop = remaining, row_offset(file, remaining, frozenset())
            self.results.documents += rows
        if self.side == "validation":
            return FileRange(file, split="validation")
        (file_range,) = assign_splits(corpus, "hash" if self.hold_out else "given")
        return replace(file_range, stop=stop)

    def _reached_max_tokens(self) -> bool:
        return self.max_tokens is not None and self.results.tokens >= self.max_tokens

    def _reached_limit(self) -> bool:
        has_documents = self.max_documents is not None and self.results.documents >= self.max_documents
        return has_documents or self._reached_max_tokens()
