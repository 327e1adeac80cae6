"""A corpus is a list of text files in a fixed order, with a fingerprint; URIs name the files.

    stdlib://            the standard library of the running interpreter: real text on every machine
    notes.txt            a file: .txt, .jsonl or .parquet; .txt and .jsonl also as .gz or .zst
    chats.jsonl          of `data.format: chat`, .jsonl alone
    corpus/              a folder: every such file in it, at any depth, by name; hidden files are left out

The order is that of the URIs, then of the names, which are relative to the URI.
"""

import json
import logging
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import cast

from candlewick.artifacts.manifest import (
    MANIFEST,
    file_sha256,
    json_sha256,
    read_bounded,
    read_manifest,
)
from candlewick.config import DataConfig
from candlewick.data.text.documents import Document, TextDefects, read_documents
from candlewick.data.text.file_ranges import Compression, FileRange, Kind, SourceFile
from candlewick.errors import ArtifactError, DataError

STDLIB = "stdlib://"
_EXTENSIONS = {
    "text": ".txt .jsonl .parquet (.txt and .jsonl also as .gz or .zst)",
    "chat": ".jsonl (also as .gz or .zst)",
}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}
_EXCLUDED_MODULES = {"test", "tests", "idlelib", "lib2to3", "ensurepip", "site-packages", "__pycache__"}
logger = logging.getLogger(__name__)


@dataclass
class Corpus:
    """Text files in a fixed order, and how they are read."""

    files: tuple[SourceFile, ...]
    config: DataConfig
    # positions of the documents that are left out (`data.tokens.duplicates`)
    duplicates: Mapping[SourceFile, tuple[int, ...]] = field(default_factory=dict[SourceFile, tuple[int, ...]])

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """SHA-256 of each file's content; reads every byte once."""
        return tuple(map(_content_sha256, self.files))

    @property
    def rows(self) -> list[list[str | int]]:
        """Name, size and SHA-256 of each file."""
        return [[file.name, file.bytes, content] for file, content in zip(self.files, self.hashes, strict=True)]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names, sizes and contents."""
        return json_sha256(self.rows)

    def documents(self) -> Iterator[Document]:
        """Yield the documents in order; see `read_documents`."""
        for file in self.files:
            yield from read_documents(FileRange(file), self.config, TextDefects())


@lru_cache(maxsize=1 << 16)
def _content_sha256(file: SourceFile) -> str:
    """Return the SHA-256 of a file, computed once for all stages."""
    file.require_unchanged()
    return file_sha256(file.path)


def open_corpus(uris: Sequence[str], config: DataConfig) -> Corpus:
    """Return the files that the URIs name. Raises DataError for a file that is missing, empty or not text."""
    if not uris:
        raise DataError("no text was given", "name files, folders or stdlib:// (data.train_shards in a config)")
    files = [file for uri in uris for file in _find_files(uri, config)]
    seen: set[Path] = set()
    for file in files:
        if file.path in seen:
            raise DataError(f"{file.path} is given twice", "name each file once, or the folder alone")
        seen.add(file.path)
    return Corpus(tuple(files), config)


def _find_files(uri: str, config: DataConfig) -> list[SourceFile]:
    if uri == STDLIB and config.format == "text":
        return _find_stdlib()
    if "://" in uri:
        raise DataError(f"{uri} is not a source of format {config.format}", f"give a file, a folder or {STDLIB}")
    path = Path(uri).expanduser()
    if path.is_dir():
        return _find_in_folder(path, config)
    if not path.exists():
        raise DataError(f"{path} does not exist", "check the path")
    file = describe_file(path, path.name, config)
    if file is None:
        raise DataError(f"{path} has an unknown extension", f"{config.format} is {_EXTENSIONS[config.format]}")
    if not file.bytes:
        raise DataError(f"{path} is empty", "give a file with text in it")
    return [file]


def _find_in_folder(folder: Path, config: DataConfig) -> list[SourceFile]:
    if (folder / MANIFEST).exists():
        if not is_text_artifact(folder):
            raise DataError(f"{folder} is an artifact ({MANIFEST} lies in it), not text", "give a folder of text")
        config = config.replaced(documents="line")  # of shards, whatever the config says of other text
    described: list[SourceFile | None] = []
    for names, path in sorted((path.relative_to(folder).parts, path) for path in folder.rglob("*")):
        if not any(name.startswith(".") for name in names) and not path.is_dir():
            described.append(describe_file(path, "/".join(names), config))
    files, others = [file for file in described if file is not None and file.bytes], described.count(None)
    if not files:
        raise DataError(f"{folder} has no text, only {others} other files", f"put in {_EXTENSIONS[config.format]}")
    if others:
        logger.info("%s: %d files with other extensions are left out", folder, others)
    return files


def is_text_artifact(folder: Path) -> bool:
    """Return whether a folder with a manifest holds shards of text: an artifact, or a plain list of `shards`."""
    try:
        return read_manifest(folder).kind == "text"
    except ArtifactError:
        try:
            content: object = json.loads(read_bounded(folder / MANIFEST))
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(content, dict) and {"shards", "total_lines"} <= cast("dict[str, object]", content).keys()


def describe_file(path: Path, name: str, config: DataConfig) -> SourceFile | None:
    """Return a text file under its name in the corpus, or None if the extension is not one of text."""
    compression = _COMPRESSIONS.get(path.suffix)
    extension = Path(path.stem).suffix if compression else path.suffix
    match extension, compression:
        case ".jsonl", _:
            kind = "chat" if config.format == "chat" else "jsonl"
        case ".txt", _ if config.format == "text":
            kind = "text" if config.documents == "file" else "lines"
        case ".parquet", None if config.format == "text":
            kind = "parquet"
        case _:
            return None
    return _source_file(path, name, kind, compression)


def _source_file(path: Path, name: str, kind: Kind, compression: Compression | None = None) -> SourceFile:
    if not os.access(path, os.R_OK):
        raise DataError(f"{path} cannot be read", "check its permissions")
    status = path.stat()
    return SourceFile(path.resolve(), name, kind, compression, status.st_size, status.st_mtime_ns)


def _find_stdlib() -> list[SourceFile]:
    library = Path(sysconfig.get_path("stdlib"))
    files: list[SourceFile] = []
    for module in sorted(sys.stdlib_module_names - _EXCLUDED_MODULES):
        for path in sorted([library / f"{module}.py", *(library / module).rglob("*.py")]):
            names = path.relative_to(library).parts
            is_source = path.is_file() and not module.startswith("_sysconfigdata")
            if is_source and not _EXCLUDED_MODULES.intersection(names) and path.stat().st_size:
                files.append(_source_file(path, STDLIB + "/".join(names), "text"))
    if not files:
        raise DataError(
            f"{STDLIB}: this interpreter has no source files in {library}",
            "use an interpreter with its library, or give other text",
        )
    return files
