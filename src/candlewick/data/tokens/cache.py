"""The cache of token datasets, tokenizers, plans of rows and stories: what lies in it, and its removal.

    CACHE/tokens-0123456789abcdef/   CACHE/tokenizer-.../   CACHE/rows-.../   CACHE/tokens-....partial/

Nothing is removed by itself. Who reads a folder holds a lock on its manifest (`data.tokens.maps`), who makes one
holds a lock on the `.partial`: neither is removed. A folder is used when a run opens it: that sets its time.
"""

import fcntl
import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from candlewick.artifacts.manifest import MANIFEST, read_manifest
from candlewick.errors import ArtifactError, DataError

_PREFIXES = ("tokens-", "tokenizer-", "rows-", "stories-")
_REMOVED = ".del-"
_MAX_NAMES = 3


def is_cached(folder: Path) -> bool:
    """Return whether a folder has the name of a folder in a cache."""
    return folder.name.startswith(_PREFIXES)


def touch(folder: Path) -> None:
    """Set the time of a folder in a cache to now."""
    if is_cached(folder):
        with suppress(OSError):  # a cache without write access is not cleared either
            os.utime(folder)


@dataclass(frozen=True, slots=True)
class CachedFolder:
    """One folder of a cache."""

    name: str
    bytes: int
    used: float  # seconds since 1970
    tokens: int | None = None  # of all splits; of a tokenizer: in its vocabulary
    made: str | None = None  # time as ISO 8601; None: unfinished, or damaged
    about: str = "unfinished"  # names of text files, or of what it was made from

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Describe a folder. Raises OSError if another process removes it."""
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        basic = folder.name, size, folder.stat().st_mtime
        if not (folder / MANIFEST).is_file():
            return cls(*basic)
        try:
            manifest = read_manifest(folder)
        except ArtifactError as error:
            return cls(*basic, about=f"damaged: {error.problem}")
        splits, text = manifest.details.get("splits"), manifest.provenance.get("text")
        tokens = (
            sum(split["tokens"] for split in splits.values()) if splits else manifest.details.get("vocab_size")
        )
        inputs = ", ".join(f"{name} {str(value)[:12]}" for name, value in manifest.inputs.items())
        about = _text_names(text) if text else inputs
        return cls(*basic, tokens, manifest.provenance.get("time"), about)


def _text_names(text: Mapping[str, Any]) -> str:
    """Return the names of the first text files in the provenance of a dataset."""
    names = [str(row[0]) for side in text.values() for row in side["files"]]
    count = sum(side["num_files"] for side in text.values()) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {count} more" if count > 0 else "")


def list_cache(cache: Path) -> list[CachedFolder]:
    """Return what lies in a cache, the least recently used first."""
    found: list[CachedFolder] = []
    for folder in filter(is_cached, cache.iterdir() if cache.is_dir() else ()):
        with suppress(OSError):  # another process removes or makes it
            found.append(CachedFolder.read(folder))
    return sorted(found, key=lambda entry: entry.used)


def remove_cached(folder: Path) -> None:
    """Remove a folder of a cache. Raises DataError if a process uses it, or if nobody can know."""
    for leftover in folder.parent.glob(f"{_REMOVED}*"):  # of a removal that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    path, flags = folder, os.O_RDONLY
    if (folder / MANIFEST).is_file():
        path, flags = folder / MANIFEST, os.O_RDWR  # over a network only open for writing it can be locked
    renamed = folder.with_name(f"{_REMOVED}{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        descriptor = os.open(path, flags)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            folder.rename(renamed)  # who waits for the lock looks then whether the folder is where it was
        finally:
            os.close(descriptor)
    except BlockingIOError:
        raise DataError(f"{folder} is in use", "remove it when the run that uses it has ended") from None
    except OSError as error:
        raise DataError(
            f"nobody can tell whether {folder} is in use, or remove it: {error.strerror}",
            "remove the folder yourself when no run uses it",
        ) from None
    shutil.rmtree(renamed, ignore_errors=True)
