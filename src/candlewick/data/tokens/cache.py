"""The folder of what was prepared on the way: least recently used first out, and nothing that is in use.

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

_PREFIXES = ("tokens-", "tokenizer-")
logger = logging.getLogger(__name__)


def is_cached(folder: Path) -> bool:
    """Say whether a folder has the name of one in a cache."""
    return folder.name.startswith(_PREFIXES)


def touch(folder: Path) -> None:
    """Note that a folder is used now, if it is one of a cache."""
    if is_cached(folder):
        with suppress(OSError):  # a cache that cannot be written to is not trimmed either
            os.utime(folder)


def trim(cache: Path, max_bytes: int, used: Collection[Path]) -> None:
    """Remove what was not used for the longest time until at most `max_bytes` are left, but nothing in use."""
    for left in cache.glob(".del-*"):
        shutil.rmtree(left, ignore_errors=True)
    found: list[tuple[int, int, Path]] = []
    for folder in filter(is_cached, cache.iterdir()):
        with suppress(OSError):  # another process removes or makes it
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            found.append((folder.stat().st_mtime_ns, size, folder))
    total, kept = sum(size for _, size, _ in found), {path.resolve() for path in used}
    for _, size, folder in sorted(found):
        if total <= max_bytes:
            break
        if folder.resolve() not in kept and _remove(folder):
            logger.info("%s is removed from the cache, it was not used for the longest time", folder)
            total -= size
    if total > max_bytes:
        logger.warning("%s has %d bytes in use, more than data.cache_max_bytes=%d", cache, total, max_bytes)


def _remove(folder: Path) -> bool:
    """Remove a folder unless some process holds it; nobody can begin to before it has its other name."""
    locks: list[int] = []
    try:
        for path in (folder, *folder.glob("shards/*.bin")):
            locks.append(os.open(path, os.O_RDONLY))
            fcntl.flock(locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        doomed = folder.with_name(f".del-{folder.name}-{uuid.uuid4().hex[:8]}")
        folder.rename(doomed)
    except OSError:  # held, or gone already
        return False
    finally:
        for descriptor in locks:
            os.close(descriptor)
    shutil.rmtree(doomed, ignore_errors=True)
    return True
