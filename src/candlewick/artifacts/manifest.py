"""An artifact: a folder whose `manifest.json` names every file with size and hash, and is written last.

    {"kind", "version", "inputs", "config", "files": [{"name", "bytes", "sha256"}],
     "details", "provenance", "sha256"}

`inputs` holds the ids of the artifacts it was made from, `config` the settings that shaped it, `details` facts for
readers. `provenance`, that is program, time and machine, is not in the id. `sha256` is that of all the other keys,
so that a manifest protects itself; those of older versions lack it. A folder is written beside its target, fsynced
and renamed, so that it appears whole or not at all.
"""

import errno
import hashlib
import json
import os
import platform
import shutil
import stat
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from candlewick import __version__
from candlewick.errors import ArtifactError

MANIFEST = "manifest.json"
_FILE_NAME = "^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)?$"
MAX_JSON_BYTES = 64 << 20
"""No other JSON file of Candlewick is larger; one that somebody gave us might fill the memory."""
MAX_MANIFEST_BYTES = 128 << 20
"""No manifest is larger, as one is neither written nor read: about 120,000 token shards, or 120 TB of text."""
_LIST_PIECE = 1000
_FIX = "make it again or restore it"
_HASHED_IN_THREADS_BYTES = 16 << 20
_MAX_THREADS = 4


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of an artifact: name relative to the folder (at most one subfolder), size, content hash."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern=_FILE_NAME)]
    bytes: Annotated[int, Field(strict=True, ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Manifest:
    """The content of a `manifest.json`."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    kind: str
    version: Annotated[int, Field(strict=True)]
    inputs: Mapping[str, Any]
    config: Mapping[str, Any]
    files: tuple[FileEntry, ...]
    details: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @cached_property
    def id(self) -> str:
        """The SHA-256 over everything but the provenance: the same on every machine."""
        return _hash_content(self.content)[1]

    @property
    def content(self) -> dict[str, Any]:
        """The fields by name, as `canonical_json` takes them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def canonical_json(value: object) -> bytes:
    """Serialize so that equal values give equal bytes: sorted keys, no spaces, UTF-8, finite numbers only."""
    options: dict[str, Any] = {"separators": (",", ":"), "ensure_ascii": False, "allow_nan": False}
    return json.dumps(value, sort_keys=True, default=_entry_as_json, **options).encode()


def _entry_as_json(value: object) -> dict[str, Any]:
    if not isinstance(value, FileEntry):
        raise TypeError(f"{type(value).__name__} is no JSON value")
    return {"bytes": value.bytes, "name": value.name, "sha256": value.sha256}


def json_sha256(value: object) -> str:
    """Return the SHA-256 of `canonical_json(value)` in hex."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _hash_content(content: Mapping[str, Any]) -> tuple[str, str]:
    """Return the SHA-256 of the canonical JSON of a manifest's content, and its id, that without the provenance.

    Long lists are serialized in pieces: those of a large dataset would take much memory at once.
    """
    whole, identity = hashlib.sha256(), hashlib.sha256()
    for number, key in enumerate(sorted(content)):
        hashed = (whole,) if key == "provenance" else (whole, identity)
        for piece in (b"," if number else b"{", canonical_json(key), b":", *_canonical_pieces(content[key])):
            for digest in hashed:
                digest.update(piece)
    for digest in (whole, identity):
        digest.update(b"}")
    return whole.hexdigest(), identity.hexdigest()


def _canonical_pieces(value: Any) -> Iterator[bytes]:
    if isinstance(value, dict):
        section = cast("dict[str, Any]", value)
        for number, key in enumerate(sorted(section)):
            yield (b"," if number else b"{") + canonical_json(key) + b":"
            yield from _canonical_pieces(section[key])
        yield b"}" if section else b"{}"
    elif isinstance(value, list | tuple) and len(items := cast("Sequence[Any]", value)) > _LIST_PIECE:
        for start in range(0, len(items), _LIST_PIECE):
            yield (b"," if start else b"[") + canonical_json(items[start : start + _LIST_PIECE])[1:-1]
        yield b"]"
    else:
        yield canonical_json(value)


@contextmanager
def naming(path: Path) -> Generator[None]:
    """Let an OSError inside the block name a file: of one that is open, the system names none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex, read in pieces. Raises OSError that names it."""
    with naming(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bounded(path: Path, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """Return the content of a file. Raises OSError for a larger one, and for a pipe or a device."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)  # a pipe that nobody writes to would be waited for

    with naming(path), open(path, "rb", opener=opener) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        content = file.read(min(status.st_size, max_bytes) + 1)  # memory is taken for what is asked for
        if len(content) > status.st_size:  # it grows, or its system does not tell sizes
            content += file.read(max_bytes)
    if len(content) > max_bytes:
        raise OSError(errno.EINVAL, f"it is larger than {max_bytes} bytes", str(path))
    return content


def require_no_link(path: Path) -> None:
    """Raise ArtifactError for a link in a folder that is written: what it leads to would be changed."""
    if path.is_symlink():
        raise ArtifactError(f"{path} is a link, and would be written to", "remove it")


def fsync_directory(path: Path) -> None:
    """Make the file names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a folder and its parents, durably."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        fsync_directory(path.parent)


def write_durable(path: Path, chunks: bytes | Iterable[bytes], name: str | None = None) -> FileEntry:
    """Write a file, hash it on the way, and fsync it. `name` is its name in the manifest."""
    digest, size = hashlib.sha256(), 0
    with naming(path), path.open("wb") as file:
        for chunk in (chunks,) if isinstance(chunks, bytes) else chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return FileEntry(name or path.name, size, digest.hexdigest())


def replace_durable(path: Path, chunks: bytes | Iterable[bytes], name: str | None = None) -> FileEntry:
    """Write a file so that a reader finds the old content or the new content, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # a link there would be written through
    try:
        entry = write_durable(temporary, chunks, name or path.name)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)
    return entry


@contextmanager
def staging(target: Path) -> Generator[Path]:
    """Yield an empty folder beside `target` to build the artifact in; remove it if the block fails."""
    make_directory(target.parent)
    folder = target.with_name(f".tmp-{target.name}-{uuid.uuid4().hex[:8]}")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, target: Path, manifest: Manifest) -> Manifest:
    """Write the manifest into `folder`, whose files are durable, and rename it to `target`; replaces its kind.

    Raises ArtifactError for a manifest that nobody would read, and for another kind of artifact at `target`.
    """
    content = {**manifest.content, "sha256": _hash_content(manifest.content)[0]}
    text = json.dumps(content, indent=1, sort_keys=True, default=_entry_as_json).encode() + b"\n"
    if len(text) > MAX_MANIFEST_BYTES:
        raise ArtifactError(
            f"the {MANIFEST} of {target} would have {len(text):,} bytes for {len(manifest.files):,} files; "
            f"readers take at most {MAX_MANIFEST_BYTES:,}",
            "make fewer, larger files of it (text: data.shard_text_bytes), or several datasets",
        )
    write_durable(folder / MANIFEST, text)
    for directory in {folder, *(folder / Path(entry.name).parent for entry in manifest.files)}:
        fsync_directory(directory)
    previous = None
    if target.exists():
        require_replaceable(target, manifest.kind)
        previous = target.with_name(f".old-{target.name}-{uuid.uuid4().hex[:8]}")
        target.rename(previous)
    try:
        folder.rename(target)
    except OSError:
        if previous is not None:
            previous.rename(target)
        raise
    fsync_directory(target.parent)
    if previous is not None:
        shutil.rmtree(previous, ignore_errors=True)
    return manifest


def require_replaceable(target: Path, kind: str) -> None:
    """Raise ArtifactError if `target` holds anything but an artifact of this kind."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        existing = read_manifest(target).kind
    except ArtifactError:
        existing = "folder of something else" if target.is_dir() else "file"
    if existing != kind:
        raise ArtifactError(
            f"{target} exists and is a {existing}, so it is not replaced by the new {kind}",
            "move it away, or choose another folder for it",
        )


def read_manifest(folder: Path, kind: str | None = None, *versions: int) -> Manifest:
    """Return the manifest of a folder. Raises ArtifactError if it is missing, wrong, or of another kind.

    `versions` are those of the format that the caller reads; none: any.
    """
    path = folder / MANIFEST
    try:
        raw: Any = from_json(read_bounded(path, MAX_MANIFEST_BYTES), allow_inf_nan=False)
        content = cast("dict[str, Any]", raw) if isinstance(raw, dict) else {}
        sha256 = content.pop("sha256", None)
        whole, identity = _hash_content(content)
        if sha256 is not None and sha256 != whole:
            raise ArtifactError(f"{path} was changed: its sha256 is another one", _FIX)
        manifest = _adapter().validate_python(content)
        vars(manifest)["id"] = identity  # it was hashed already
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(
            f"{folder} has no {MANIFEST}: it is not a finished {kind or 'artifact'}",
            "give the folder that holds it, or make it again",
        ) from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}", _FIX) from None
    except ValidationError as error:
        raise ArtifactError(
            f"{path} is not an artifact manifest: {first_problem(error)}", "make it again"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not valid JSON: {str(error)[:200]}", "make it again") from None
    if kind is not None and manifest.kind != kind:
        raise ArtifactError(f"{folder} is a {manifest.kind!r} artifact, expected {kind!r}", "name another folder")
    if versions and manifest.version not in versions:
        raise ArtifactError(
            f"{folder} has format version {manifest.version}, this program reads "
            f"{' and '.join(map(str, versions))}",
            "make it again with this version",
        )
    return manifest


@cache
def _adapter() -> TypeAdapter[Manifest]:
    return TypeAdapter(Manifest)


def first_problem(error: ValidationError, *keys: str) -> str:
    """Return the key, below `keys`, and the message of the first problem that pydantic found."""
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, (*keys, *problem['loc']))) or 'all of it'}: {problem['msg']}"


def verify(folder: Path, manifest: Manifest, *, hashes: bool = True) -> None:
    """Raise ArtifactError for the first file that is missing or has another size (or, with `hashes`, hash)."""
    file_states(folder, manifest)
    if hashes:
        _verify_hashes(folder, manifest.files)


def file_states(folder: Path, manifest: Manifest) -> list[list[int]]:
    """Return inode, size and modification time in ns of each file. Raises ArtifactError as `verify` does."""
    states: list[list[int]] = []
    for entry in manifest.files:
        path = f"{folder}/{entry.name}"
        try:
            # it may be a link: its content is what counts
            status = os.stat(path)  # noqa: PTH116  # a Path for each of 100,000 files costs seconds
        except (FileNotFoundError, NotADirectoryError):
            raise ArtifactError(f"{path} is missing", _FIX) from None
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError(f"{path} is missing: what is there is no file", _FIX)
        if status.st_size != entry.bytes:
            raise ArtifactError(
                f"{path} has {status.st_size} bytes, its manifest says {entry.bytes}: it changed", _FIX
            )
        states.append([status.st_ino, status.st_size, status.st_mtime_ns])
    return states


def _verify_hashes(folder: Path, entries: Sequence[FileEntry]) -> None:
    """Hash files, large ones in threads: hashing them leaves other threads free to run."""
    paths = [folder / entry.name for entry in entries]
    if sum(entry.bytes for entry in entries) < _HASHED_IN_THREADS_BYTES:
        found = [*map(file_sha256, paths)]
    else:
        with ThreadPoolExecutor(_MAX_THREADS) as threads:
            found = [*threads.map(file_sha256, paths)]
    for path, entry, sha256 in zip(paths, entries, found, strict=True):
        if sha256 != entry.sha256:
            about = f"sha256 {sha256[:12]}, its manifest says {entry.sha256[:12]}: its content changed"
            raise ArtifactError(f"{path} has {about}", _FIX)


def provenance(**more: Any) -> dict[str, Any]:
    """Return program, machine and time of an artifact, which are not part of its id."""
    return {
        "tool": f"candlewick {__version__}",
        "python": platform.python_version(),
        "platform": platform.platform(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        **more,
    }
