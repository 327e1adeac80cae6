"""Text -> text shards: files of so many documents each, with a manifest of their hashes. Lossless and restartable.

    TRAIN/train_0000.jsonl  train_0001.jsonl  ...  manifest.json     kind "text": one {"text": ...} per line
    VAL/val_0000.jsonl      ...                    manifest.json     held out by the hash of each document

With `format: text` a line is a document, and line ends inside of documents become spaces, which are counted. A
document is held out by the hash of a seed, its length and its beginning, so copies of a text are on one side.

While the shards grow they lie in TRAIN.partial and VAL.partial under their own names. Whenever one is full, and at
the end of each source file, `state.json` notes the place in the sources and the size of what is open. Work that
was stopped, by `kill -9` too, cuts the open files there and goes on with the next document: the bytes are the same
as without the stop. `details` of the manifest have what the seed's sharder wrote.
"""

import gzip
import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

from candlewick.artifacts import (
    MANIFEST,
    FileEntry,
    Manifest,
    canonical_json,
    file_sha256,
    json_sha256,
    publish,
    read_manifest,
    replace_durable,
    verify,
    write_durable,
)
from candlewick.config import DataConfig
from candlewick.data.clean import Cleaning, CleaningReport, clean
from candlewick.data.documents import BadText, Document, read
from candlewick.data.holdout import split_of_hash
from candlewick.data.hub_files import HubFiles
from candlewick.data.pieces import Piece, SourceFile
from candlewick.data.recipe import Recipe, alone, find, stoppable
from candlewick.data.sources import Corpus, field_of, open_corpus
from candlewick.errors import ArtifactError, DataError
from candlewick.hub import SCHEME
from candlewick.tokenizer.artifact import provenance

KIND, VERSION = "text", 1
_STATE = "state.json"
_HEAD = 1024

Json = dict[str, Any]
Progress = Callable[[int, int], None]  # bytes of source files done and in all

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """What decides the shards besides the text."""

    documents_per_shard: int = 200_000
    take: int | None = None
    """Documents to read at most; None: all."""
    validation_fraction: float = 0.0
    seed: int = 17
    """Decides which documents are held out."""
    format: Literal["jsonl", "text"] = "jsonl"
    gzip: bool = False
    split: str = "train"
    """Of a dataset on the Hub."""
    cleaning: Cleaning | None = None
    """None: every document stays what it is."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where the shards go. `validation` may be None if nothing is held out."""

    train: Path
    validation: Path | None


class Files(Protocol):
    """Source files, of which one at a time is open."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that is in them."""
        ...

    @property
    def sizes(self) -> list[int]:
        """Bytes of each."""
        ...

    def open(self, number: int) -> SourceFile:
        """Return a file that can be read."""
        ...

    def close(self, number: int) -> None:
        """Let go of it."""
        ...

    def stop(self) -> None:
        """Let go of all."""
        ...


@dataclass(frozen=True, slots=True)
class _LocalFiles:
    corpus: Corpus

    @property
    def fingerprint(self) -> str:
        return self.corpus.fingerprint

    @property
    def sizes(self) -> list[int]:
        return [file.bytes for file in self.corpus.files]

    def open(self, number: int) -> SourceFile:
        return self.corpus.files[number]

    def close(self, number: int) -> None:
        pass

    def stop(self) -> None:
        pass


def shard(
    sources: list[str],
    outputs: Outputs,
    settings: ShardSettings,
    config: DataConfig,
    *,
    ahead: int = 1,
    progress: Progress | None = None,
) -> tuple[list[Manifest], bool]:
    """Write the text of `sources` (files, folders, stdlib://, or one dataset of the Hub) as shards.

    `config` says how text is read. Returns the manifests, train first, and whether all was there already. Raises
    DataError for text that cannot be used, ArtifactError if something else is at an output, EnvironmentFault when
    the network stays away, Interrupted when it is stopped: the same call then goes on.
    """
    if settings.validation_fraction and outputs.validation is None:
        raise DataError("documents are held out and there is no folder for them", "give --val-output or --output")
    partial = outputs.train.with_name(outputs.train.name + ".partial")
    files = _open(sources, settings, config, partial / "fetched", ahead)
    try:
        wanted = _sides(outputs, settings)
        recipes = {side: _recipe(side, files, settings, config) for side in wanted}
        there = {side: find(folder, recipes[side]) for side, folder in wanted.items()}
        if all(there.values()):
            return [manifest for manifest in there.values() if manifest], True
        with ExitStack() as stack:
            folders = {side: stack.enter_context(alone(folder)) for side, folder in wanted.items()}
            stack.enter_context(stoppable(partial))
            work = _Work(files, settings, config, folders, json_sha256([asdict(r) for r in recipes.values()]))
            work.run(progress)
            source = getattr(files, "repo", None)
            dataset = sources[0] if source is None else str(source.uri)
            files.stop()
            for side in reversed(wanted):  # the training shards are published last
                there[side] = work.publish(side, wanted[side], recipes[side], dataset)
    finally:
        files.stop()
    return [manifest for manifest in there.values() if manifest], False


def _open(sources: list[str], settings: ShardSettings, config: DataConfig, folder: Path, ahead: int) -> Files:
    if not any(source.startswith(SCHEME) for source in sources):
        return _LocalFiles(open_corpus(sources, config))
    if len(sources) > 1:
        raise DataError("a dataset of the Hub stands alone", "shard one after another into folders of their own")
    return HubFiles(sources[0], settings.split, config, folder, ahead=ahead)


def _sides(outputs: Outputs, settings: ShardSettings) -> dict[str, Path]:
    validation = outputs.validation if settings.validation_fraction else None
    return {"train": outputs.train} | ({"val": validation} if validation is not None else {})


def _recipe(side: str, files: Files, settings: ShardSettings, config: DataConfig) -> Recipe:
    reading = {"field": field_of(config), "documents": config.documents, "bad_utf8": config.bad_utf8}
    return Recipe(KIND, {"corpus": files.fingerprint}, {"side": side, **asdict(settings), **reading}, VERSION)


@dataclass
class _Side:
    """The shards of one side while they grow: finished ones, and the file that is open."""

    folder: Path
    name: str
    settings: ShardSettings
    finished: list[Json] = field(default_factory=list[Json])
    documents: int = 0  # in the open file
    size: int = 0  # of the open file, in bytes
    stream: BinaryIO | None = None

    @property
    def path(self) -> Path:
        """Where the open file is."""
        return (
            self.folder
            / f"{self.name}_{len(self.finished):04d}.{'txt' if self.settings.format == 'text' else 'jsonl'}"
        )

    def restore(self, state: Json) -> None:
        """Go back to a noted state. Raises OSError if a file is gone or too short."""
        self.finished, self.documents, self.size = state["finished"], state["documents"], state["size"]
        if self.size:
            if self.path.stat().st_size < self.size:
                raise FileNotFoundError(self.path)
            os.truncate(self.path, self.size)

    def add(self, line: bytes) -> None:
        """Append a line."""
        if self.stream is None:
            self.stream = self.path.open("ab" if self.size else "wb")
        self.stream.write(line)
        self.documents += 1
        self.size += len(line)

    def finish(self) -> None:
        """Close the open file for good, compressed if that is wanted."""
        path, lines = self.path, self.documents
        if not lines:
            return
        self.sync()
        assert self.stream is not None
        self.stream.close()
        entry = FileEntry(path.name, self.size, file_sha256(path))
        if self.settings.gzip:
            entry = write_durable(path.with_name(path.name + ".gz"), _compressed(path))
        self.finished.append({"path": entry.name, "lines": lines, "bytes": entry.bytes, "sha256": entry.sha256})
        self.stream, self.documents, self.size = None, 0, 0

    def sync(self) -> Json:
        """Bring everything to the disk; return what `restore` needs."""
        if self.stream is None and self.size:
            self.stream = self.path.open("ab")
        if self.stream is not None:
            self.stream.flush()
            os.fsync(self.stream.fileno())
        return {"finished": self.finished, "documents": self.documents, "size": self.size}

    def sweep(self) -> None:
        """Remove what belongs to no state: uncompressed twins, and what came after the last one noted."""
        known = {shard["path"] for shard in self.finished} | {self.path.name, _STATE}
        for path in self.folder.iterdir():
            if path.is_file() and path.name not in known:
                path.unlink()


def _compressed(path: Path) -> Iterator[bytes]:
    """Yield a file compressed, without name and time in it, so that the same text gives the same bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile("", "wb", 6, buffer, mtime=0) as packer, path.open("rb") as file:
        while block := file.read(1 << 20):
            packer.write(block)
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


class _Work:
    """The sources on their way into shards, from where a former process left them."""

    def __init__(
        self, files: Files, settings: ShardSettings, config: DataConfig, folders: dict[str, Path], key: str
    ) -> None:
        self.files, self.settings, self.config, self.key = files, settings, config, key
        self.state_path = folders["train"] / _STATE
        self.sides = {side: _Side(folder, side, settings) for side, folder in folders.items()}
        self.file = self.skip = self.taken = self.newlines = 0
        self.bad, self.cleaned = BadText(), CleaningReport()
        self._restore()

    def _restore(self) -> None:
        try:
            state: Json = json.loads(self.state_path.read_bytes())
            if state["key"] == self.key:
                for name, side in self.sides.items():
                    side.restore(state["sides"][name])
                self.file, self.skip, self.taken = state["file"], state["skip"], state["taken"]
                self.newlines, self.bad = state["newlines"], BadText(**state["bad"])
                self.cleaned = CleaningReport(**state["cleaned"])
                _log.info("going on after %d documents, with file %d", self.taken, self.file + 1)
        except (OSError, ValueError, KeyError, TypeError) as error:
            if self.state_path.exists():
                _log.warning("%s cannot be gone on with, the shards are begun anew: %s", self.state_path, error)
            self.sides = {name: _Side(side.folder, name, self.settings) for name, side in self.sides.items()}
        for side in self.sides.values():
            side.sweep()

    def _note(self, file: int, skip: int, bad: BadText) -> None:
        """Make what is done durable; a later process goes on after `skip` documents of `file`."""
        sides = {name: side.sync() for name, side in self.sides.items()}
        place = {"file": file, "skip": skip, "taken": self.taken, "newlines": self.newlines, "bad": asdict(bad)}
        place["cleaned"] = self.cleaned.to_json()
        replace_durable(self.state_path, canonical_json({"key": self.key, "sides": sides, **place}))
        for side in self.sides.values():
            side.sweep()

    def run(self, progress: Progress | None) -> None:
        """Read all files that are left. The bad UTF-8 of a file that is read again is counted once."""
        sizes = self.files.sizes
        for number in range(self.file, len(sizes)):
            if self._is_enough():
                break
            file, before = self.files.open(number), self.bad
            self.bad = BadText()
            self.bad.merge(before)
            done = 0
            for place, text in enumerate(
                _whole(read(Piece(file), field_of(self.config), self.config.bad_utf8, self.bad))
            ):
                done += len(text)
                if place >= self.skip and self._take(text):
                    self._note(number, place + 1, before)
                    if progress:
                        progress(sum(sizes[:number]) + min(done, sizes[number]), sum(sizes))
                if self._is_enough():
                    break
            self.files.close(number)
            self.skip = 0
            self._note(number + 1, 0, self.bad)
            if progress:
                progress(sum(sizes[: number + 1]), sum(sizes))
        for side in self.sides.values():
            side.finish()
        self._note(len(sizes), 0, self.bad)

    def _is_enough(self) -> bool:
        return self.settings.take is not None and self.taken >= self.settings.take

    def _take(self, text: str) -> bool:
        """Write a document, cleaned if that is wanted; return whether a shard became full."""
        self.taken += 1
        if self.settings.cleaning is not None:
            cleaned = clean(text, self.settings.cleaning, self.cleaned)
            if cleaned is None:
                return False
            text = cleaned
        side = self.sides["val" if self._is_held_out(text) else "train"]
        side.add(self._line(text))
        if side.documents < self.settings.documents_per_shard:
            return False
        side.finish()
        return True

    def _is_held_out(self, text: str) -> bool:
        if not self.settings.validation_fraction:
            return False
        head = f"{self.settings.seed}\n{len(text)}\n{text[:_HEAD]}".encode()
        return split_of_hash(hashlib.sha256(head).hexdigest(), self.settings.validation_fraction) == "validation"

    def _line(self, text: str) -> bytes:
        if self.settings.format == "jsonl":
            return json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n"
        flat = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
        self.newlines += flat.count("\n")
        return flat.replace("\n", " ").encode() + b"\n"

    def publish(self, name: str, folder: Path, recipe: Recipe, dataset: str) -> Manifest:
        """Make the artifact of one side, unless a former process did."""
        if (done := find(folder, recipe)) is not None:
            return done
        side, settings = self.sides[name], self.settings
        if not side.finished:
            raise DataError(
                f"no {'validation' if name == 'val' else 'training'} document came out of {dataset}",
                "give more text" + (", or raise --val-ratio" if name == "val" else ""),
            )
        if self.newlines:
            _log.warning(
                "%d line ends inside of documents became spaces; --format jsonl keeps them", self.newlines
            )
        details = {
            "dataset": dataset,
            "split": settings.split,
            "seed": settings.seed,
            "gzip": settings.gzip,
            "lines_per_shard": settings.documents_per_shard,
            "total_shards": len(side.finished),
            "total_lines": sum(shard["lines"] for shard in side.finished),
            "total_bytes": sum(shard["bytes"] for shard in side.finished),
            "newlines_replaced": self.newlines,
            **({} if settings.cleaning is None else {"cleaning": self.cleaned.to_json()}),
            "bad_utf8": {"documents": self.bad.documents, "sequences": self.bad.sequences},
            "shards": side.finished,
        }
        entries = tuple(FileEntry(shard["path"], shard["bytes"], shard["sha256"]) for shard in side.finished)
        if name == "train":
            self.state_path.unlink(missing_ok=True)
        return publish(
            side.folder,
            folder,
            Manifest(KIND, VERSION, recipe.inputs, recipe.config, entries, details, provenance()),
        )


def _whole(documents: Iterable[Document]) -> Iterator[str]:
    """Join the parts of long documents."""
    parts: list[str] = []
    for document in documents:
        parts.append(document.text)
        if document.ends:
            yield "".join(parts)
            parts = []


def verify_text(folder: Path) -> tuple[int, int]:
    """Read every byte of a folder of text shards, ours or the seed's; return how many files and bytes it has.

    Raises ArtifactError that names the first file that is missing, cut short or changed.
    """
    try:
        raw: Any = json.loads((folder / MANIFEST).read_bytes())
        shards = None if "kind" in raw else raw["shards"]
        entries = [FileEntry(Path(s["path"]).name, int(s["bytes"]), str(s["sha256"])) for s in shards or ()]
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(f"{folder} has no {MANIFEST}", "give a folder of shards") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"{folder / MANIFEST} is no manifest of shards: {error!r}", "give a folder of shards"
        ) from None
    manifest = (
        read_manifest(folder, KIND, VERSION) if shards is None else Manifest(KIND, 0, {}, {}, tuple(entries))
    )
    verify(folder, manifest)
    return len(manifest.files), sum(entry.bytes for entry in manifest.files)
