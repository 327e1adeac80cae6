"""Links to the best checkpoints of a run: they lie among its other checkpoints, and pruning spares them.

    RUN/best -> checkpoints/step_000000500              the best of all: every reader of models opens it
    DIRECTORY/best, DIRECTORY/step_000000400, ...       with evaluation.best.directory: all that are kept

A link is relative and replaced atomically. Where the file system has no links, a file best.json in their folder
names the best checkpoint.
"""

import errno
import json
import logging
import os
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from candlewick.artifacts.manifest import fsync_directory, make_directory, replace_durable
from candlewick.checkpoint.layout import BEST_JSON, list_checkpoints, step_folder

logger = logging.getLogger(__name__)


def link_best(checkpoints: Path, steps: Sequence[int], place: Path, *, is_folder: bool) -> None:
    """Link the best checkpoints of a run, the best of them last in `steps`, and remove links to others.

    `place` is the link, or if it `is_folder` the folder of the links. Raises OSError.
    """
    folders = [folder for step in steps if (folder := step_folder(checkpoints, step)).is_dir()]
    is_own = place.resolve() != checkpoints.resolve()
    if is_own:
        _set_aside_version_1(place, is_folder=is_folder)
    best = place / "best" if is_folder else place
    links = {best: folders[-1]} if folders else {}
    if is_folder and is_own:
        links |= {place / folder.name: folder for folder in folders}
    for link in {best, *(place.glob("step_*") if is_folder else ())} - links.keys():
        if link.is_symlink():
            _tell_of_another(link, checkpoints)
            link.unlink()
    try:
        for link, folder in links.items():
            _tell_of_another(link, checkpoints)
            _link(link, folder)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        _tell_once(place)
        make_directory(place)
        content = {"best": os.path.relpath(folders[-1].resolve(), place.resolve())}
        replace_durable(place / BEST_JSON, json.dumps(content).encode())
    else:
        if is_folder:
            (place / BEST_JSON).unlink(missing_ok=True)


def _tell_of_another(link: Path, checkpoints: Path) -> None:
    """Warn of a link to a checkpoint that is none of `checkpoints`: another run made it, and it is replaced."""
    if link.is_symlink() and link.resolve().parent != checkpoints.resolve():
        logger.warning("%s was a link to %s, which stays: links there are now this run's", link, link.resolve())


def _link(link: Path, folder: Path) -> None:
    """Make a relative link to a folder, in the place of an older link or of the folder that stood for it."""
    make_directory(link.parent)
    target = os.path.relpath(folder.resolve(), link.parent.resolve())
    if link.is_symlink() and str(link.readlink()) == target:
        return
    temporary = link.with_name(f".tmp-{link.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target, target_is_directory=True)
    if not link.is_symlink() and (link / BEST_JSON).is_file():
        (link / BEST_JSON).unlink()
        link.rmdir()
    try:
        temporary.replace(link)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(link.parent)


def _set_aside_version_1(place: Path, *, is_folder: bool) -> None:
    """Rename the folders in which a run of format version 1 kept copies of its best checkpoints."""
    aside = place.with_name(f"{place.name}.v1-{time.time_ns()}")
    if is_folder:
        copies = [folder for folder in list_checkpoints(place) if not folder.is_symlink()]
        for folder in copies:
            make_directory(aside)
            folder.rename(aside / folder.name)
    elif place.is_dir() and not place.is_symlink() and not (place / BEST_JSON).is_file():
        place.rename(aside)
    if aside.is_dir():
        logger.warning("the best checkpoints of an older version of candlewick are kept as %s", aside)


@cache
def _tell_once(place: Path) -> None:
    logger.warning("there are no links on the disk of %s: %s names the best checkpoint", place, BEST_JSON)
