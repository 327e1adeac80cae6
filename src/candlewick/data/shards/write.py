"""Text -> text shards: files of so many documents each, with a manifest of their hashes. Lossless and restartable.

    TRAIN/train_0000.jsonl  train_0001.jsonl  ...  manifest.json     kind "text": one {"text": ...} per line
    VAL/val_0000.jsonl      ...                    manifest.json     held out by the hash of each document

With `format: text` line ends inside of a document become spaces, and blank documents are left out; both are
counted.

Growing shards lie in TRAIN.partial and VAL.partial, files of the Hub in TRAIN.fetched. `state.json` holds the
cursor in the sources and the size of the open files, after each full shard. After a stop, by `kill -9`
too, the next process truncates the open files and continues: the bytes are the same as without the stop.
"""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from candlewick.artifacts.build import (
    ProgressCallback,
    Recipe,
    exclusive_build,
    find_built,
    interruptible,
    require_same,
)
from candlewick.artifacts.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    canonical_json,
    json_sha256,
    provenance,
    publish,
    read_bounded,
    read_manifest,
    replace_durable,
    require_replaceable,
    verify,
)
from candlewick.config import DataConfig
from candlewick.data.shards.clean import Cleaning, CleaningReport, clean
from candlewick.data.shards.writer import ShardWriter
from candlewick.data.text.corpus import Corpus
from candlewick.data.text.documents import Document, TextDefects, count_documents, read_documents
from candlewick.data.text.downloads import Downloads
from candlewick.data.text.file_ranges import FileRange, TextFile
from candlewick.data.text.find import open_text
from candlewick.data.text.holdout import document_split, explain_share, find_ends
from candlewick.errors import ArtifactError, ConfigError, DataError

KIND, VERSION = "text", 2
_READ_VERSIONS = (1, 2)
_STATE = "state.json"
_DOCUMENTS_PER_REPORT = 256
_MAX_COUNTED_DOCUMENTS = 10_000
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """The settings that decide the shards, besides the text."""

    documents_per_shard: int = 200_000
    take: int | None = None  # at most so many documents; None: all
    validation_fraction: float = 0.0
    seed: int = 17  # decides which documents are held out
    format: Literal["jsonl", "text"] = "jsonl"
    gzip: bool = False
    split: str = "train"  # of a dataset on the Hub
    mode: str = "prod"  # named in the manifest; decides nothing
    cleaning: Cleaning | None = None  # None: documents stay unchanged


@dataclass(frozen=True, slots=True)
class Outputs:
    """The folders of the shards. Without held-out text `validation` stays unused; `downloads` is for Hub files."""

    train: Path
    validation: Path
    downloads: Path | None = None
    _: KW_ONLY
    replaces_other: bool = True  # shards that were made otherwise


def write_text_shards(
    sources: Sequence[str],
    outputs: Outputs,
    settings: ShardSettings,
    config: DataConfig,
    *,
    ahead: int = 1,
    progress: ProgressCallback | None = None,
) -> tuple[list[Manifest], bool]:
    """Write the text of `sources` (files, folders, stories://, stdlib://, hf://datasets/...) as shards.

    `ahead` files of the Hub are downloaded while one is read. Returns the manifests, train first, and whether all
    were there already. Raises ConfigError for equal outputs, DataError for text that cannot be used, ArtifactError
    if something else is at an output, MachineError without a network, RunInterrupted: the same call continues.
    """
    folders = {"train": outputs.train} | ({"val": outputs.validation} if settings.validation_fraction else {})
    if len({folder.resolve() for folder in folders.values()}) < len(folders):
        raise ConfigError(f"train and validation shards both go to {outputs.train}", "give two folders")
    corpus = open_text(sources, config, settings.split)
    reading = corpus.reading.identity()
    del reading["format"]  # `format` is that of the shards
    shaping = {name: value for name, value in asdict(settings).items() if name != "mode"}
    inputs = {"corpus": corpus.fingerprint}
    recipes = {side: Recipe(KIND, inputs, {"side": side, **shaping, **reading}, VERSION) for side in folders}

    def find_shards() -> dict[str, Manifest]:
        manifests = {side: find_built(folder, recipes[side], hashes=False) for side, folder in folders.items()}
        return {side: manifest for side, manifest in manifests.items() if manifest is not None}

    if len(built := find_shards()) == len(folders):
        return list(built.values()), True
    for side, folder in folders.items():
        require_replaceable(folder, KIND)
        if not outputs.replaces_other:
            require_same(folder, recipes[side])
    partial = outputs.train.with_name(outputs.train.name + ".partial")
    downloads = outputs.downloads or outputs.train.with_name(outputs.train.name + ".fetched")
    with ExitStack() as stack:
        partials = {side: stack.enter_context(exclusive_build(folder)) for side, folder in folders.items()}
        stack.enter_context(interruptible(partial))
        if len(built := find_shards()) == len(folders):  # another process was faster
            return list(built.values()), True
        key = json_sha256([asdict(recipe) for recipe in recipes.values()])
        job = _ShardJob(corpus, settings, partials, key, set(built))
        for writer in job.writers.values():
            stack.callback(writer.close)
        job.run(downloads, ahead, progress)
        reason = job.explain_share()
        for side in reversed(folders):  # train last: the state lies with it
            if side not in built:
                built[side] = job.publish(side, folders[side], recipes[side], " ".join(sources), reason)
        shutil.rmtree(partial, ignore_errors=True)  # if validation was all that was missing
    return [built[side] for side in folders], False


@dataclass(slots=True)
class _Cursor:
    """The position in the sources, and counts of the text before it."""

    file: int = 0
    skip: int = 0  # documents of the file that are written
    taken: int = 0
    newlines: int = 0
    blank: int = 0
    text_bytes: int = 0
    cleaned: CleaningReport = field(default_factory=CleaningReport)


@dataclass
class _ShardJob:
    """Writes the sources as shards, from the saved state of a former process on."""

    corpus: Corpus
    settings: ShardSettings
    folders: dict[str, Path]
    key: str
    published: set[str]  # sides that a killed process published before the rest
    ends: Counter[bytes] = field(default_factory=Counter[bytes])  # of the first documents

    def __post_init__(self) -> None:
        self.state_path = self.folders["train"] / _STATE
        restored = self._restore()
        self.writers, self.cursor, self.defects = restored or (self._new_writers(), _Cursor(), TextDefects())
        self._sweep()

    def _new_writers(self) -> dict[str, ShardWriter]:
        settings, extension = self.settings, ".txt" if self.settings.format == "text" else ".jsonl"
        return {side: ShardWriter(path, side, extension, settings.gzip) for side, path in self.folders.items()}

    def _restore(self) -> tuple[dict[str, ShardWriter], _Cursor, TextDefects] | None:
        """Return the saved state of a former process, if that is of the same work and its files are there."""
        try:
            state: dict[str, Any] = json.loads(read_bounded(self.state_path))
            if state["key"] != self.key:
                logger.info("%s is of other text or settings: the shards are begun anew", self.state_path)
                return None
            cursor, defects = TypeAdapter(_Cursor).validate_python(state["place"]), TextDefects(**state["bad"])
            writers = self._new_writers()
            for side in writers.keys() - self.published:
                writers[side].restore(state["sides"][side])
        except FileNotFoundError as error:
            if self.state_path.exists():  # it is a shard that is gone
                logger.warning("%s: the shards are begun anew", error)
            return None
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s cannot be read (%s): the shards are begun anew", self.state_path, error)
            return None
        logger.info("going on after %d documents, in source file %d", cursor.taken, cursor.file + 1)
        return writers, cursor, defects

    def _save_state(self, file: int, skip: int, defects: TextDefects) -> None:
        """Make the shards durable: a later process goes on after `skip` documents of `file`."""
        self.cursor.file, self.cursor.skip = file, skip
        sides = {side: writer.sync() for side, writer in self.writers.items()}
        state = {"key": self.key, "sides": sides, "place": asdict(self.cursor), "bad": asdict(defects)}
        replace_durable(self.state_path, canonical_json(state))
        self._sweep()

    def _sweep(self) -> None:
        for writer in self.writers.values():
            writer.sweep(_STATE)

    def run(self, downloads: Path, ahead: int, progress: ProgressCallback | None) -> None:
        """Write the documents that are left. Defects of a file that is read again are counted once."""
        files, cursor = self.corpus.files, self.cursor
        total, done = sum(file.bytes for file in files), sum(file.bytes for file in files[: cursor.file])
        with Downloads(self.corpus, downloads, ahead) as source:
            for number, file in source.files(cursor.file, self._wants_next) if self._wants_more() else ():
                before, skip, first_byte = self.defects, cursor.skip, cursor.text_bytes
                self.defects = replace(before)
                documents = _join_parts(read_documents(FileRange(file), self.corpus.reading, self.defects))
                for row, text in enumerate(documents):
                    if row < skip:
                        continue
                    if self._write_document(text):
                        self._save_state(number, row + 1, before)
                    if not self._wants_more():
                        break
                    if progress and row % _DOCUMENTS_PER_REPORT == 0:
                        self._report(progress, done + min(cursor.text_bytes - first_byte, file.bytes), total)
                done += file.bytes
                cursor.file, cursor.skip = number + 1, 0
                source.release(number + 1)
                if progress:
                    self._report(progress, done, total)
                if not self._wants_more():  # before the next file is waited for
                    break
        for writer in self.writers.values():
            writer.finish()
        self._save_state(len(files), 0, self.defects)

    def _report(self, progress: ProgressCallback, done: int, total: int) -> None:
        """Report bytes of the source files; with `take`, bytes of text, of about so many in all."""
        take, cursor = self.settings.take, self.cursor
        if take is not None and cursor.taken:
            done, total = cursor.text_bytes, cursor.text_bytes * take // cursor.taken
        progress(done, total)

    def _wants_next(self, file: TextFile) -> bool:
        return self._wants_more(
            count_documents(FileRange(file), self.corpus.reading) if file.kind == "parquet" else 0
        )

    def _wants_more(self, rows: int = 0) -> bool:
        return self.settings.take is None or self.cursor.taken + rows < self.settings.take

    def _write_document(self, text: str) -> bool:
        """Write a document; return whether a shard became full."""
        line = self._format_line(text)
        if line is None:
            return False
        split = document_split(text, self.settings.validation_fraction, self.settings.seed)
        side = "val" if split == "validation" else "train"
        if self.cursor.taken < _MAX_COUNTED_DOCUMENTS:
            self.ends[find_ends(text)] += 1
        self.cursor.taken += 1
        self.cursor.text_bytes += len(line)
        if side in self.published:
            return False
        writer = self.writers[side]
        writer.add(line)
        is_full = writer.lines >= self.settings.documents_per_shard
        if is_full:
            writer.finish()
        return is_full

    def _format_line(self, raw: str) -> bytes | None:
        cleaning = self.settings.cleaning
        text = raw if cleaning is None else clean(raw, cleaning, self.cursor.cleaned)
        if text is None:
            return None
        if self.settings.format == "jsonl":
            return json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n"
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        flat = " ".join(lines)
        if not flat.strip():
            self.cursor.blank += 1
            return None
        self.cursor.newlines += len(lines) - 1
        return flat.encode() + b"\n"

    def explain_share(self) -> str:
        """Return why far more or fewer documents are held out than was asked for, if that is known, else ""."""
        if self.published or "val" not in self.writers:
            return ""
        lines = {name: sum(shard["lines"] for shard in side.shards) for name, side in self.writers.items()}
        alike = max(self.ends.values(), default=0), self.ends.total()
        return explain_share(lines["train"], lines["val"], self.settings.validation_fraction, lambda: alike)

    def publish(self, side: str, folder: Path, recipe: Recipe, dataset: str, reason: str) -> Manifest:
        """Publish the shards of a side as `folder`. Raises DataError, with the reason, if there are none."""
        shards, settings, cursor = self.writers[side].shards, self.settings, self.cursor
        if not shards:
            more = ", read lines as documents, or hold out more (--val-ratio, data.validation_fraction)"
            kind, fix = ("training", "") if side == "train" else ("validation", more)
            because = f": {reason}" if reason else ""
            raise DataError(f"no {kind} document came out of {dataset}{because}", f"give more text{fix}")
        if side == "train":
            self._warn()
            self.state_path.unlink(missing_ok=True)
        details = {
            "dataset": dataset,
            **{name: getattr(settings, name) for name in ("split", "mode", "seed", "gzip")},
            "lines_per_shard": settings.documents_per_shard,
            "total_shards": len(shards),
            "total_lines": sum(shard["lines"] for shard in shards),
            "total_bytes": sum(shard["bytes"] for shard in shards),
            "newlines_replaced": cursor.newlines,
            "blank_left_out": cursor.blank,
            **({} if settings.cleaning is None else {"cleaning": asdict(cursor.cleaned)}),
            "bad_utf8": {"documents": self.defects.documents, "sequences": self.defects.sequences},
            "shards": shards,
        }
        entries = tuple(FileEntry(shard["path"], shard["bytes"], shard["sha256"]) for shard in shards)
        manifest = Manifest(KIND, VERSION, recipe.inputs, recipe.config, entries, details, provenance())
        return publish(self.folders[side], folder, manifest)

    def _warn(self) -> None:
        cursor, take = self.cursor, self.settings.take
        if take is not None and cursor.taken < take:
            logger.warning("there are %d documents, fewer than the %d to take", cursor.taken, take)
        if cursor.newlines or cursor.blank:
            logger.warning(
                "%d line ends inside of documents became spaces, %d blank documents are left out; "
                "--format jsonl keeps them",
                *(cursor.newlines, cursor.blank),
            )
        self.defects.warn()


def _join_parts(documents: Iterable[Document]) -> Iterator[str]:
    texts: list[str] = []
    for document in documents:
        texts.append(document.text)
        if document.ends_document:
            yield "".join(texts)
            texts = []


def verify_text_shards(folder: Path) -> tuple[int, int]:
    """Read every byte of a folder of text shards; return its number of files and of bytes.

    A manifest of another program is read if it lists `shards` with path, bytes and sha256. Raises ArtifactError.
    """
    try:
        raw: Any = json.loads(read_bounded(folder / MANIFEST))
        if "kind" in raw:
            manifest = read_manifest(folder, KIND, *_READ_VERSIONS)
        else:
            listed = [(Path(row["path"]).name, int(row["bytes"]), str(row["sha256"])) for row in raw["shards"]]
            manifest = Manifest(KIND, 0, {}, {}, tuple(FileEntry(*row) for row in listed), {}, {})
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(f"{folder} has no {MANIFEST}", "give a folder of shards") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{folder / MANIFEST} lists no shards: {error!r}", "give a folder of shards") from None
    verify(folder, manifest)
    return len(manifest.files), sum(entry.bytes for entry in manifest.files)
