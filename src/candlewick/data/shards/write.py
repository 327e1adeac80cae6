"""Text -> text shards: files of so many documents each, with a manifest of their hashes. Lossless and restartable.

    TRAIN/train_0000.jsonl  train_0001.jsonl  ...  manifest.json     kind "text": one {"text": ...} per line
    VAL/val_0000.jsonl      ...                    manifest.json     held out by the hash of each document

With `format: text` line ends inside of a document become spaces, and blank documents are left out; both are
counted.

While the shards grow they lie in TRAIN.partial and VAL.partial, files of the Hub in TRAIN.fetched. `state.json`
notes the place in the sources and the size of what is open, after each shard and source file. Work that was
stopped, by `kill -9` too, cuts the open files there and goes on: the bytes are the same as without the stop.
"""

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from candlewick.artifacts.build import ProgressCallback, Recipe, exclusive_build, find_built, interruptible
from candlewick.artifacts.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    canonical_json,
    json_sha256,
    provenance,
    publish,
    read_manifest,
    replace_durable,
    require_replaceable,
    verify,
)
from candlewick.config import DataConfig
from candlewick.data.shards.clean import Cleaning, CleaningReport, clean
from candlewick.data.shards.writer import ShardWriter
from candlewick.data.text.documents import Document, TextDefects, content_field, read_documents
from candlewick.data.text.file_ranges import FileRange
from candlewick.data.text.holdout import document_split
from candlewick.data.text.source_files import SourceFiles, open_sources
from candlewick.errors import ArtifactError, ConfigError, DataError

KIND, VERSION = "text", 1
_STATE = "state.json"
_DOCUMENTS_PER_REPORT = 256
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """What decides the shards besides the text."""

    documents_per_shard: int = 200_000
    take: int | None = None  # documents to write at most; None: all
    validation_fraction: float = 0.0
    seed: int = 17  # decides which documents are held out
    format: Literal["jsonl", "text"] = "jsonl"
    gzip: bool = False
    split: str = "train"  # of a dataset on the Hub
    mode: str = "prod"  # where the settings come from; for the manifest alone
    cleaning: Cleaning | None = None  # None: every document stays what it is


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where the shards go. `validation` is not written to if nothing is held out, `fetched` is for Hub files."""

    train: Path
    validation: Path
    downloads: Path | None = None


def write_text_shards(
    sources: Sequence[str],
    outputs: Outputs,
    settings: ShardSettings,
    config: DataConfig,
    *,
    ahead: int = 1,
    progress: ProgressCallback | None = None,
) -> tuple[list[Manifest], bool]:
    """Write the text of `sources` (files, folders, stdlib://, hf://datasets/...) as shards.

    `ahead` files of the Hub are fetched while one is read. Returns the manifests, train first, and whether all was
    there already. Raises DataError for text that cannot be used, ArtifactError if something else is at an output,
    MachineError when the network stays away, RunInterrupted when it is stopped: the same call then goes on.
    """
    wanted = {"train": outputs.train} | ({"val": outputs.validation} if settings.validation_fraction else {})
    if len({folder.resolve() for folder in wanted.values()}) < len(wanted):
        raise ConfigError(f"train and validation shards both go to {outputs.train}", "give two folders")
    files = open_sources(sources, settings.split, config)
    recipes = {side: _recipe(side, files, settings) for side in wanted}

    def look() -> dict[str, Manifest]:
        return {
            s: found for s, folder in wanted.items() if (found := find_built(folder, recipes[s], hashes=False))
        }

    if len(there := look()) == len(wanted):
        return list(there.values()), True
    for folder in wanted.values():
        require_replaceable(folder, KIND)
    partial = outputs.train.with_name(outputs.train.name + ".partial")
    fetched = outputs.downloads or outputs.train.with_name(outputs.train.name + ".fetched")
    with ExitStack() as stack:
        folders = {side: stack.enter_context(exclusive_build(folder)) for side, folder in wanted.items()}
        stack.enter_context(interruptible(partial))
        if len(there := look()) == len(wanted):  # another process was faster
            return list(there.values()), True
        key = json_sha256([asdict(recipe) for recipe in recipes.values()])
        work = _ShardJob(files, settings, folders, key, set(there))
        for side in work.sides.values():
            stack.callback(side.close)
        work.run(fetched, ahead, progress)
        shutil.rmtree(fetched, ignore_errors=True)
        for side in reversed(wanted):  # train last: the state lies with it
            if side not in there:
                there[side] = work.publish(side, wanted[side], recipes[side], " ".join(sources))
        shutil.rmtree(partial, ignore_errors=True)  # if validation was all that was missing
    return [there[side] for side in wanted], False


def _recipe(side: str, files: SourceFiles, settings: ShardSettings) -> Recipe:
    config = files.config
    reading = {"field": content_field(config), "documents": config.documents, "bad_utf8": config.bad_utf8}
    own = asdict(settings)
    del own["mode"]
    return Recipe(KIND, {"corpus": files.fingerprint}, {"side": side, **own, **reading}, VERSION)


@dataclass(slots=True)
class _Cursor:
    """How far the sources are read, and what was met on the way."""

    file: int = 0
    skip: int = 0  # documents of that file that are done
    taken: int = 0
    newlines: int = 0
    blank: int = 0
    text_bytes: int = 0
    cleaned: CleaningReport = field(default_factory=CleaningReport)


@dataclass
class _ShardJob:
    """The sources on their way into shards, from where a former process left them."""

    files: SourceFiles
    settings: ShardSettings
    folders: dict[str, Path]
    key: str
    published: set[str]  # by a process that was killed before it published the rest

    def __post_init__(self) -> None:
        self.state_path = self.folders["train"] / _STATE
        self.sides, self.cursor, self.bad_utf8 = self._restore() or (self._writers(), _Cursor(), TextDefects())
        for side in self.sides.values():
            side.sweep(_STATE)

    def _writers(self) -> dict[str, ShardWriter]:
        form = ".txt" if self.settings.format == "text" else ".jsonl", self.settings.gzip
        return {name: ShardWriter(folder, name, *form) for name, folder in self.folders.items()}

    def _restore(self) -> tuple[dict[str, ShardWriter], _Cursor, TextDefects] | None:
        """Return what a former process noted, if that was of the same work and its files are there."""
        try:
            state: dict[str, Any] = json.loads(self.state_path.read_bytes())
            if state["key"] != self.key:
                logger.info("%s is of other text or settings: the shards are begun anew", self.state_path)
                return None
            place = TypeAdapter(_Cursor).validate_python(state["place"])
            bad, writers = TextDefects(**state["bad"]), self._writers()
            for name, writer in writers.items():
                if name not in self.published:
                    writer.restore(state["sides"][name])
        except FileNotFoundError as error:
            if self.state_path.exists():  # it is a shard that is gone
                logger.warning("%s: the shards are begun anew", error)
            return None
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s cannot be read (%s): the shards are begun anew", self.state_path, error)
            return None
        logger.info("going on after %d documents, in source file %d", place.taken, place.file + 1)
        return writers, place, bad

    def _save_state(self, file: int, skip: int, bad: TextDefects) -> None:
        """Make what is done durable: a later process goes on after `skip` documents of `file`."""
        self.cursor.file, self.cursor.skip = file, skip
        sides = {name: side.sync() for name, side in self.sides.items()}
        state = {"key": self.key, "sides": sides, "place": asdict(self.cursor), "bad": asdict(bad)}
        replace_durable(self.state_path, canonical_json(state))
        for side in self.sides.values():
            side.sweep(_STATE)

    def run(self, fetched: Path, ahead: int, progress: ProgressCallback | None) -> None:
        """Read all that is left. The bad UTF-8 of a file that is read again is counted once."""
        place, total = self.cursor, sum(file.bytes for file in self.files.files)
        done = sum(file.bytes for file in self.files.files[: place.file])
        config = self.files.config
        for number, file in self.files.iter_downloaded(place.file, fetched, ahead, self._wants_more):
            before, skip, began = self.bad_utf8, place.skip, place.text_bytes
            self.bad_utf8 = replace(before)
            documents = _join_parts(read_documents(FileRange(file), config, self.bad_utf8))
            for row, text in enumerate(documents):
                if row < skip:
                    continue
                if self._write_document(text):
                    self._save_state(number, row + 1, before)
                if not self._wants_more(0):
                    break
                if progress and row % _DOCUMENTS_PER_REPORT == 0:
                    self._report(progress, done + min(place.text_bytes - began, file.bytes), total)
            done += file.bytes
            self._save_state(number + 1, 0, self.bad_utf8)
            if progress:
                self._report(progress, done, total)
        for side in self.sides.values():
            side.finish()
        self._save_state(len(self.files.files), 0, self.bad_utf8)

    def _report(self, progress: ProgressCallback, done: int, total: int) -> None:
        """Tell bytes of the source files; with `take`, bytes of text, of about so many in all."""
        take, place = self.settings.take, self.cursor
        if take is not None and place.taken:
            done, total = place.text_bytes, place.text_bytes * take // place.taken
        progress(done, total)

    def _wants_more(self, rows: int) -> bool:
        return self.settings.take is None or self.cursor.taken + rows < self.settings.take

    def _write_document(self, text: str) -> bool:
        """Write a document; return whether a shard became full."""
        line = self._format_line(text)
        if line is None:
            return False
        held_out = (
            document_split(f"{self.settings.seed}\n{text}", self.settings.validation_fraction) == "validation"
        )
        side = self.sides["val" if held_out else "train"]
        self.cursor.taken += 1
        self.cursor.text_bytes += len(line)
        if side.name in self.published:
            return False
        side.add(line)
        is_full = side.lines >= self.settings.documents_per_shard
        if is_full:
            side.finish()
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

    def publish(self, name: str, folder: Path, recipe: Recipe, dataset: str) -> Manifest:
        side, settings, place = self.sides[name], self.settings, self.cursor
        if not side.shards:
            raise DataError(
                f"no {'validation' if name == 'val' else 'training'} document came out of {dataset}",
                "give more text"
                + (
                    ", read lines as documents, or hold out more (--val-ratio, data.validation_fraction)"
                    * (name == "val")
                ),
            )
        if name == "train":
            self._warn()
            self.state_path.unlink(missing_ok=True)
        details = {
            "dataset": dataset,
            **{name: getattr(settings, name) for name in ("split", "mode", "seed", "gzip")},
            "lines_per_shard": settings.documents_per_shard,
            "total_shards": len(side.shards),
            "total_lines": sum(shard["lines"] for shard in side.shards),
            "total_bytes": sum(shard["bytes"] for shard in side.shards),
            "newlines_replaced": place.newlines,
            "blank_left_out": place.blank,
            **({} if settings.cleaning is None else {"cleaning": asdict(place.cleaned)}),
            "bad_utf8": {"documents": self.bad_utf8.documents, "sequences": self.bad_utf8.sequences},
            "shards": side.shards,
        }
        entries = tuple(FileEntry(shard["path"], shard["bytes"], shard["sha256"]) for shard in side.shards)
        manifest = Manifest(KIND, VERSION, recipe.inputs, recipe.config, entries, details, provenance())
        return publish(side.folder, folder, manifest)

    def _warn(self) -> None:
        place, take = self.cursor, self.settings.take
        if take is not None and place.taken < take:
            logger.warning("there are %d documents, fewer than the %d to take", place.taken, take)
        if place.newlines or place.blank:
            logger.warning(
                "%d line ends inside of documents became spaces, %d blank documents are left out; "
                "--format jsonl keeps them",
                *(place.newlines, place.blank),
            )
        self.bad_utf8.warn()


def _join_parts(documents: Iterable[Document]) -> Iterator[str]:
    parts: list[str] = []
    for document in documents:
        parts.append(document.text)
        if document.ends_document:
            yield "".join(parts)
            parts = []


def verify_text_shards(folder: Path) -> tuple[int, int]:
    """Read every byte of a folder of text shards; return how many files and bytes it has.

    A manifest of another program will do if it lists `shards` as `details` of ours do. Raises ArtifactError.
    """
    try:
        raw: Any = json.loads((folder / MANIFEST).read_bytes())
        if "kind" in raw:
            manifest = read_manifest(folder, KIND, VERSION)
        else:
            shards = [
                (Path(shard["path"]).name, int(shard["bytes"]), str(shard["sha256"])) for shard in raw["shards"]
            ]
            manifest = Manifest(KIND, 0, {}, {}, tuple(FileEntry(*shard) for shard in shards), {}, {})
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(f"{folder} has no {MANIFEST}", "give a folder of shards") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"{folder / MANIFEST} is no manifest of shards: {error!r}", "give a folder of shards"
        ) from None
    verify(folder, manifest)
    return len(manifest.files), sum(entry.bytes for entry in manifest.files)
