"""Hashes of text files, kept between starts: a file whose stamp is the same is not read again.

A stamp is size, time of change, inode and the time of the inode's change. Small texts, and files that changed in
the last seconds, are always hashed. The hashes lie in the user's cache, and can be removed at any time:

    SHA-256 of the rest | stamp, hash | stamp, hash | ...        32 bytes each, of as many files as there are
"""

import hashlib
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from candlewick.artifacts.manifest import file_sha256, json_sha256, read_bounded, replace_durable
from candlewick.data.text.file_ranges import TextFile

_ALWAYS_HASHED_BYTES = 256 << 20  # about 0.2 seconds
_TOO_NEW_NS = 5_000_000_000  # a file system may keep times in steps of seconds
_MAX_THREADS = 4
logger = logging.getLogger(__name__)


def hash_files(files: Sequence[TextFile]) -> list[str]:
    """Return the SHA-256 of each local file, with its index. Raises DataError for one that changed."""
    if sum(file.bytes for file in files) <= _ALWAYS_HASHED_BYTES:
        return [_hash(file) for file in files]
    path = _stamps_path(files)
    known = {} if path is None else _read(path, len(files))
    stamps = [_stamp(file) for file in files]
    with ThreadPoolExecutor(_MAX_THREADS) as threads:
        hashes = [*threads.map(lambda file, stamp: known.get(stamp) or _hash(file), files, stamps)]
    new = {stamp: sha256 for stamp, sha256 in zip(stamps, hashes, strict=True) if stamp}
    if path is not None and new != known:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = bytes.fromhex("".join(stamp + sha256 for stamp, sha256 in new.items()))
            replace_durable(path, hashlib.sha256(content).digest() + content)
        except OSError as error:
            logger.warning("%s cannot be written (%s): the text is hashed again next time", path, error)
    return hashes


def _hash(file: TextFile) -> str:
    file.require_unchanged()
    sha256 = file_sha256(file.path)
    return sha256 if file.index is None else json_sha256([sha256, _hash(file.index)])


def _stamp(file: TextFile) -> str:
    """Return what shows that a file is the same, "" for one that may still change within its times."""
    file.require_unchanged()
    status = file.path.stat()
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < _TOO_NEW_NS:
        return ""
    numbers = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_dev, status.st_ino
    stamp = json_sha256([str(file.path), *numbers])
    if file.index is None:
        return stamp
    index = _stamp(file.index)
    return index and json_sha256([stamp, index])


def _stamps_path(files: Sequence[TextFile]) -> Path | None:
    try:
        folder = Path.home() / ".cache" / "candlewick" / "hashes"
    except RuntimeError:  # there is no home
        return None
    return folder / f"{json_sha256([str(file.path) for file in files])}.bin"


def _read(path: Path, num_files: int) -> dict[str, str]:
    """Return the hashes of a former start by stamp; none if they are damaged."""
    try:
        content = read_bounded(path, 32 + 64 * num_files)
    except OSError:
        return {}
    pairs = [content[start : start + 64].hex() for start in range(32, len(content), 64)]
    is_whole = content[:32] == hashlib.sha256(content[32:]).digest()
    return {pair[:64]: pair[64:] for pair in pairs} if is_whole else {}
