"""The cache of token datasets and tokenizers drops the least recently used folder first, none in use.

    CACHE/tokens-0123456789abcdef/   CACHE/tokenizer-.../   CACHE/tokens-....partial/

Token shards are locked while they are mapped (`data.tokens.dataset`), a `.partial` while it grows.
"""

import fcntl
import logging
import os
import shutil
import uuid
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_PREFIXES = ("tokens-", "tokenizer-", "rows-")
logger = logging.getLogger(__name__)


def is_cached(folder: Path) -> bool:
    """Return whether a folder has the name of a folder in a cache."""
    return folder.name.startswith(_PREFIXES)


def touch(folder: Path) -> None:
    """Set the time of a folder in a cache to now."""
    if is_cached(folder):
        with suppress(OSError):  # a cache without write access is not trimmed either
            os.utime(folder)


def trim(cache: Path, max_bytes: int, used: Collection[Path]) -> None:
    """Remove the least recently used folders that are not in use, until at most `max_bytes` are left."""
    for leftover in cache.glob(".del-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    folders: list[tuple[int, int, Path]] = []
    for folder in filter(is_cached, cache.iterdir()):
        with suppress(OSError):  # another process removes or makes it
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            folders.append((folder.stat().st_mtime_ns, size, folder))
    total, used_paths = sum(size for _, size, _ in folders), {path.resolve() for path in used}
    for _, size, folder in sorted(folders):
        if total <= max_bytes:
            break
        if folder.resolve() not in used_paths and _remove(folder):
            logger.info("%s is removed from the cache, it was not used for the longest time", folder)
            total -= size
    if total > max_bytes:
        logger.warning("%s has %d bytes in use, more than data.cache_max_bytes=%d", cache, total, max_bytes)


def _remove(folder: Path) -> bool:
    """Remove a folder unless a process holds it; the lock keeps others out until it has its other name."""
    locks: list[int] = []
    try:
        for path in (folder, *folder.glob("shards/*.bin")):
            locks.append(os.open(path, os.O_RDONLY))
            fcntl.flock(locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        renamed = folder.with_name(f".del-{folder.name}-{uuid.uuid4().hex[:8]}")
        folder.rename(renamed)
    except OSError:  # held, or gone already
        return False
    finally:
        for descriptor in locks:
            os.close(descriptor)
    shutil.rmtree(renamed, ignore_errors=True)
    return True
