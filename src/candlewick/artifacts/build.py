"""Build an artifact unless its manifest is there already; one process at a time builds it.

OUTPUT.partial     locked by the process that builds OUTPUT; keeps finished work after a stop
.tmp-OUTPUT-*      being written beside it; .old-OUTPUT-*: being removed. After a kill the next build removes both
"""

import fcntl
import json
import logging
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from candlewick.artifacts.manifest import (
    MANIFEST,
    Manifest,
    make_directory,
    publish,
    read_bounded,
    read_manifest,
    require_no_link,
    require_replaceable,
    staging,
    verify,
    write_durable,
)
from candlewick.errors import ArtifactError, CheckpointError, RunInterrupted

ProgressCallback = Callable[[int, int], None]  # called with the work done and the total, both about
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recipe:
    """The identity of an artifact, known before it is built."""

    kind: str
    inputs: Mapping[str, Any]
    config: Mapping[str, Any]
    version: int = 1


def find_built(folder: Path, recipe: Recipe, *, hashes: bool = True) -> Manifest | None:
    """Return the manifest in `folder` if its recipe is this one and its files are whole; `hashes` reads them."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        manifest = read_manifest(folder, recipe.kind, recipe.version)
        if (dict(manifest.inputs), dict(manifest.config)) != (dict(recipe.inputs), dict(recipe.config)):
            return None
        verify(folder, manifest, hashes=hashes)
    except ArtifactError as error:
        logger.warning("%s; it is made again", error.problem)
        return None
    _sweep(folder, "old")
    return manifest


def require_same(output: Path, recipe: Recipe) -> None:
    """Raise ArtifactError that names what differs if an artifact of this kind, made otherwise, is at `output`."""
    if not (output / MANIFEST).is_file():
        return
    try:
        manifest = read_manifest(output, recipe.kind)
    except ArtifactError:
        return  # something else, which is never replaced
    made = {"version": manifest.version, **manifest.inputs, **manifest.config}
    wanted = {"version": recipe.version, **recipe.inputs, **recipe.config}
    different = [
        f"{name} {str(made.get(name))[:20]}, now {str(wanted.get(name))[:20]}"
        for name in sorted(made.keys() | wanted.keys())
        if made.get(name) != wanted.get(name)
    ]
    if different:
        raise ArtifactError(
            f"{output} holds {recipe.kind} that were made otherwise: {'; '.join(different)}",
            "add --replace, or choose another folder",
        )


def build_once(
    output: Path, recipe: Recipe, build: Callable[[Path], Manifest], *, hashes: bool = True
) -> tuple[Manifest, bool]:
    """Return the manifest at `output`, and whether it was there; else `build` makes it in `output`.partial.

    Only one process builds at a time. Raises ArtifactError if something else is at `output`.
    """
    if (manifest := find_built(output, recipe, hashes=hashes)) is not None:
        return manifest, True
    require_replaceable(output, recipe.kind)
    with exclusive_build(output) as partial:
        manifest = find_built(output, recipe, hashes=hashes)  # another process may have been faster
        return (build(partial), False) if manifest is None else (manifest, True)


def build_json_once(path: Path, recipe: Recipe, compute: Callable[[], object]) -> tuple[Any, bool]:
    """Return the content of the JSON file `path`, an artifact, and whether it was there; else `compute` it."""

    def build(_: Path) -> Manifest:
        content = json.dumps(compute(), indent=1, ensure_ascii=False).encode()
        with staging(path.parent) as folder:
            files = (write_durable(folder / path.name, content),)
            manifest = Manifest(recipe.kind, recipe.version, recipe.inputs, recipe.config, files, {}, {})
            return publish(folder, path.parent, manifest)

    _, reused = build_once(path.parent, recipe, build)
    return json.loads(read_bounded(path)), reused


@contextmanager
def exclusive_build(output: Path) -> Generator[Path]:
    """Lock the folder `output`.partial for the block; the kernel unlocks it when this process ends.

    A second process waits. Folders that killed processes left beside `output`, and an empty .partial, are removed.
    """
    partial = output.with_name(output.name + ".partial")
    while True:
        require_no_link(partial)
        partial.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("another process works on %s: waiting for it", partial)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            # what was locked may have been published, that is renamed, in the meantime
            if _is_open_at(descriptor, partial):
                try:
                    _sweep(output, "tmp", "old")
                    yield partial
                finally:
                    if _is_open_at(descriptor, partial):
                        with suppress(OSError):  # not empty: the next process continues it
                            partial.rmdir()
                return
        finally:
            os.close(descriptor)


@contextmanager
def hold_folder(folder: Path, fix: str) -> Generator[None]:
    """Hold the lock of a folder, its file LOCK, while the block runs; then remove a folder that has nothing else.

    Raises CheckpointError, with `fix`, if another process holds it: LOCK says which one.
    """
    path = folder / "LOCK"
    while True:
        make_directory(folder)
        if path.is_symlink():
            raise CheckpointError(f"{path} is a link, and would be written to", "remove it")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = file.read(200).strip() or "another process"
                raise CheckpointError(f"{folder} is in use by {owner}", fix) from None
            if not _is_open_at(descriptor, path):  # its last holder removed it
                continue
            file.truncate(0)
            json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
            file.flush()
            try:
                yield
            finally:
                with suppress(OSError):
                    if [entry.name for entry in folder.iterdir()] == [path.name]:
                        path.unlink()
                        folder.rmdir()
            return


def is_held(folder: Path) -> bool:
    """Return whether a process holds the lock of a folder, see `hold_folder`."""
    path = folder / "LOCK"
    try:
        owner = json.loads(read_bounded(path, 200))
        if owner["host"] == socket.gethostname():
            os.kill(owner["pid"], 0)  # most locks are old, and trying one could keep another process out of it
    except PermissionError:
        pass  # it lives, and is somebody else's
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return False
    with suppress(OSError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def interruptible(partial: Path) -> Generator[None]:
    """Turn SIGINT and SIGTERM into RunInterrupted, which names the folder of the finished work."""
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler) if is_main else None
    try:
        yield
    except KeyboardInterrupt:
        raise RunInterrupted(
            f"preparation stopped; what is finished is kept in {partial}", "run it again to go on"
        ) from None
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, handler if handler is not None else signal.SIG_DFL)


def _is_open_at(descriptor: int, path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())


def _sweep(output: Path, *prefixes: str) -> None:
    for prefix in prefixes:
        for leftover in output.parent.glob(f".{prefix}-{escape(output.name)}-????????"):
            shutil.rmtree(leftover, ignore_errors=True)
