"""Text on the Hub -> token shards, file after file, until there is enough: what is not needed is never fetched.

    listing -> file 0 -> tasks -> shards, file 0 goes; file 1, fetched meanwhile -> tasks -> shards ... -> sealed

A file is on the disk from shortly before it is encoded until its shards are written; the next one is fetched
meanwhile, unless this one may be enough. Tasks are taken in their order until `data.max_tokens` tokens to train on
are there, whole tasks, so that the dataset is the same with any number of workers; `data.max_documents` cuts at a
row. What each file became is noted in `train-stream.json`: work that was stopped fetches no finished file again
and ends in the same dataset. It is sealed then and never changes: a run that begins with it does not know the Hub
any more.
"""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from candlewick.artifacts.manifest import canonical_json, json_sha256, replace_durable
from candlewick.config import DataConfig
from candlewick.data.text.corpus import Corpus, field_of
from candlewick.data.text.documents import count_documents
from candlewick.data.text.holdout import Holdout, assign, row_offset
from candlewick.data.text.pieces import Piece, SourceFile, Split
from candlewick.data.text.source_files import SourceFiles
from candlewick.data.tokens.encode import Receipt, Task, read_receipt
from candlewick.data.tokens.plan import groups_of, settings_of, tasks_of

_NOTES = "stream.json"

Run = Callable[[Sequence[Task]], list[Receipt]]
Progress = Callable[[int, int], None]

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Streamed:
    """What is prepared so far: finished tasks in their order, with what each wrote."""

    tasks: list[Task] = field(default_factory=list[Task])
    receipts: list[Receipt] = field(default_factory=list[Receipt])
    documents: int = 0
    """Rows that were read, of text for training."""

    def add(self, tasks: Sequence[Task], receipts: Sequence[Receipt]) -> None:
        """Append finished tasks."""
        self.tasks += tasks
        self.receipts += receipts

    @property
    def tokens(self) -> int:
        """Tokens to train on."""
        return sum(s.tokens for receipt in self.receipts for s in receipt.shards if s.split == "train")


class Stream:
    """Prepares one side of the text into `streamed`, a wave of tasks at a time."""

    def __init__(self, files: SourceFiles, folder: Path, identity: str, *, hold_out: bool, run: Run) -> None:
        self.files, self.folder, self.identity, self.run = files, folder, identity, run
        self.config: DataConfig = files.config
        self.hold_out = hold_out

    def prepare(self, side: Split, done: Streamed, wave: int, progress: Progress | None = None) -> None:
        """Prepare the files as text for training (some of it held out), or all of it for validation."""
        notes = self.folder / f"{side}-{_NOTES}"
        key = self._key(done)
        finished = self._restore(notes, key, done)
        fetched = self.folder / "fetched"
        sizes = [file.bytes for file in self.files.files]
        is_bounded = side == "train" and (self.config.max_tokens or self.config.max_documents) is not None
        if not (side == "train" and self._is_enough(done)):
            for number, file in self.files.at_hand(len(finished), fetched, 0 if is_bounded else 1):
                first, before = len(done.tasks), done.documents
                self._prepare_file(file, side, done, wave, progress)
                keys = [[task.index, task.key] for task in done.tasks[first:]]
                finished.append({"tasks": keys, "documents": done.documents - before})
                replace_durable(notes, canonical_json({"key": key, "files": finished}))
                if progress and self.config.max_tokens is None:
                    progress(sum(sizes[: number + 1]), sum(sizes))
                if side == "train" and self._is_enough(done):
                    break
        shutil.rmtree(fetched, ignore_errors=True)
        wanted = self.config.max_tokens
        if side == "train" and wanted is not None and done.tokens < wanted and not self._has_documents(done):
            _log.warning("the source has %d tokens to train on, fewer than the %d wanted", done.tokens, wanted)

    def _key(self, done: Streamed) -> str:
        """Return a hash of all that decides what the files become."""
        config = self.config
        settings, limits = settings_of(config, hold_out=self.hold_out), [config.max_tokens, config.max_documents]
        return json_sha256([self.identity, self.files.fingerprint, settings, limits, self._next(done)])

    def _restore(self, notes: Path, key: str, done: Streamed) -> list[dict[str, object]]:
        """Take over the files that a former process has finished; stops at the first whose shards are damaged."""
        finished: list[dict[str, object]] = []
        try:
            raw = json.loads(notes.read_bytes())
            if raw["key"] != key:
                return []
            for noted in raw["files"]:
                tasks = [Task(index, (), 0, key, self.config) for index, key in noted["tasks"]]
                receipts = [read_receipt(self.folder, task) for task in tasks]
                if None in receipts:
                    break
                done.add(tasks, [receipt for receipt in receipts if receipt is not None])
                done.documents += noted["documents"]
                finished.append(noted)
        except (OSError, ValueError, KeyError, TypeError):
            return finished
        return finished

    def _prepare_file(
        self, file: SourceFile, side: Split, done: Streamed, wave: int, progress: Progress | None
    ) -> None:
        pieces = self._pieces(file, side, done)
        corpus = Corpus((file,), self.config)
        hashes = dict(zip(corpus.files, corpus.hashes, strict=True))
        groups = list(groups_of(pieces, corpus))
        tasks = tasks_of(groups, hashes, self.identity, self.config, self.hold_out, first=self._next(done))
        for start in range(0, len(tasks), wave):
            for task, receipt in zip(own := tasks[start : start + wave], self.run(own), strict=True):
                if side == "train" and self._has_tokens(done):
                    return  # the rest of the wave is swept
                done.add([task], [receipt])
            if progress and self.config.max_tokens is not None and side == "train":
                progress(min(done.tokens, self.config.max_tokens), self.config.max_tokens)

    def _next(self, done: Streamed) -> int:
        return done.tasks[-1].index + 1 if done.tasks else 0

    def _pieces(self, file: SourceFile, side: Split, done: Streamed) -> list[Piece]:
        """Return the file as pieces, cut where there are enough rows."""
        stop = None
        if side == "train" and self.config.max_documents is not None:
            left = self.config.max_documents - done.documents
            rows = count_documents(Piece(file), field_of(self.config), left + 1)
            if rows > left and file.kind != "text":
                rows, stop = left, row_offset(file, left, frozenset())
            done.documents += rows
        if side == "validation":
            return [Piece(file, 0, stop, split="validation")]
        holdout: Holdout = "hash" if self.hold_out else "given"
        (piece,) = assign(Corpus((file,), self.config), holdout)
        return [Piece(file, 0, stop, split=piece.split)]

    def _has_tokens(self, done: Streamed) -> bool:
        return self.config.max_tokens is not None and done.tokens >= self.config.max_tokens

    def _has_documents(self, done: Streamed) -> bool:
        return self.config.max_documents is not None and done.documents >= self.config.max_documents

    def _is_enough(self, done: Streamed) -> bool:
        return self._has_tokens(done) or self._has_documents(done)
