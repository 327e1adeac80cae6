"""Where checkpoints lie, which one is the newest, and which are kept.

    <run>/checkpoints/step_000000500/
        config.json generation_config.json tokenizer.json tokenizer_config.json    for Hugging Face readers
        model.safetensors        weights, float32, Hugging Face names
        training/optimizer.safetensors    "<parameter>.<state>", the same names
        training/state.json      step, position in the data, random state, schedule, the run's resolved config
        manifest.json            kind "checkpoint": name, bytes, sha256 of every file above; written last

A folder without a manifest is an unfinished save and is ignored. What only training needs has a folder of its own:
vLLM reads every *.safetensors beside config.json as weights. Version 1 had both files there; it is still read.
"""

import json
import logging
import re
import shutil
import time
from collections.abc import Collection, Container
from dataclasses import replace
from pathlib import Path

from candlewick.artifacts.manifest import (
    MANIFEST,
    Manifest,
    fsync_directory,
    make_directory,
    read_bounded,
    read_manifest,
    replace_durable,
    verify,
)
from candlewick.config import RunConfig
from candlewick.config.load import load_config
from candlewick.config.seal import seal
from candlewick.config.tree import dump
from candlewick.errors import ArtifactError, CheckpointError

KIND, VERSION = "checkpoint", 2
READABLE_VERSIONS = (1, 2)
BEST_JSON = "best.json"
"""In the place of links to the best checkpoints, where there are none: {"best": a path from its folder on}."""
OPTIMIZER, STATE = "training/optimizer.safetensors", "training/state.json"
_STEP = re.compile(r"step_\d{9}")
_LINK = re.compile(r"\.tmp-(best|step_\d{9})")  # that was not renamed yet
_TEMPORARY = re.compile(r"\.\w+\.(yaml|toml|json|txt|md|html)\.\d+\.tmp")  # of `replace_durable`

logger = logging.getLogger(__name__)


def step_folder(directory: Path, step: int) -> Path:
    """Return the folder of the checkpoint after `step` updates."""
    return directory / f"step_{step:09d}"


def list_checkpoints(directory: Path) -> list[Path]:
    """Return the finished checkpoints below `directory`, oldest first, unverified."""
    if not directory.is_dir():
        return []
    return sorted(p for p in directory.iterdir() if _STEP.fullmatch(p.name) and (p / MANIFEST).is_file())


def verify_checkpoint(folder: Path, *, without: Container[str] = ()) -> Manifest:
    """Verify a checkpoint's files, except those `without`, and return its manifest. Raises CheckpointError."""
    manifest = _read_manifest(folder)
    entries = tuple(entry for entry in manifest.files if entry.name not in without)
    try:
        verify(folder, replace(manifest, files=entries))
    except ArtifactError as error:
        raise CheckpointError(f"checkpoint rejected: {error.problem}", error.fix) from None
    return manifest


def _read_manifest(folder: Path) -> Manifest:
    try:
        return read_manifest(folder, KIND, *READABLE_VERSIONS)
    except ArtifactError as error:
        raise CheckpointError(f"checkpoint rejected: {error.problem}", error.fix, folder) from None


def checkpoint_directory(run_dir: Path, configured: Path | None) -> Path:
    """Return where a run keeps its checkpoints; `configured` is `runtime.checkpoint.directory`."""
    return configured or run_dir / "checkpoints"


def find_checkpoints(path: Path) -> list[Path]:
    """Return the checkpoint folders that a user's path names, the newest first; unverified.

    The path is a checkpoint, a link to one, a folder of checkpoints, or a run. Raises CheckpointError.
    """
    if (path / BEST_JSON).is_file():
        path = path / _read_best(path / BEST_JSON)
    if (path / MANIFEST).is_file():
        _read_manifest(path)
        return [path]
    if (path / "config.json").is_file():
        return [path]
    config_file = path / "config.yaml"
    configured = load_config(config_file).runtime.checkpoint.directory if config_file.is_file() else None
    for directory in (path, checkpoint_directory(path, configured)):
        if folders := list_checkpoints(directory):
            return folders[::-1]
    if not path.exists():
        raise CheckpointError(f"{path} does not exist", "give a checkpoint folder or a run folder")
    raise CheckpointError(f"{path} holds no finished checkpoint", "give a checkpoint folder or a run folder", path)


def _read_best(path: Path) -> str:
    """Return the path in a best.json, from its folder on. Raises CheckpointError."""
    try:
        best = json.loads(read_bounded(path))["best"]
        if not isinstance(best, str):
            raise TypeError(best)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} names no checkpoint: {error!r:.80}", "give the checkpoint's folder"
        ) from None
    return best


def prune(directory: Path, last: Path, max_keep: int, best: Collection[int] = (), run: str | None = None) -> None:
    """Remove all but the newest `max_keep` checkpoints up to `last`, the folder that was just written.

    The checkpoints of the steps `best` are neither counted nor removed, nor are those of later steps, of another
    run, and those whose manifest cannot be read.
    """
    spared = {step_folder(directory, step) for step in best}
    candidates = [folder for folder in list_checkpoints(directory) if folder <= last and folder not in spared]
    for folder in [folder for folder in candidates if _is_of(folder, run)][:-max_keep]:
        trash = folder.with_name(f".del-{folder.name}")
        folder.rename(trash)
        fsync_directory(directory)
        shutil.rmtree(trash, ignore_errors=True)


def _is_of(folder: Path, run: str | None) -> bool:
    """Return whether a checkpoint is of a run, or of an older version, which named none."""
    try:
        return _read_manifest(folder).provenance.get("run") in (None, run)
    except CheckpointError:
        return False


def write_config(config: RunConfig, run_dir: Path, run: str) -> None:
    """Write a run's `config.yaml`, which names the run and is sealed. Raises OSError."""
    make_directory(run_dir)
    sealed = seal(dump(config, "yaml", run_dir), run)
    replace_durable(run_dir / "config.yaml", sealed.encode())


def set_aside_after(start: Path, step: int) -> None:
    """Rename the checkpoints beside `start`, of `step`, that are not before it: the run goes on from there."""
    for folder in list_checkpoints(start.parent):
        if folder != start and folder >= step_folder(start.parent, step):
            aside = folder.with_name(f"{folder.name}.rejected-{time.time_ns()}")
            logger.warning("the run goes on from %s, so %s is kept as %s", start, folder, aside.name)
            folder.rename(aside)


def remove_leftovers(directory: Path) -> None:
    """Remove what interrupted saves, prunes, links and written settings left in a folder of a run.

    Only the holder of the folder's lock may call it.
    """
    for folder in sorted(directory.glob(".*-step_*")):
        prefix, name = folder.name.split("-")[:2]
        # a checkpoint that was to be replaced is put back if its replacement was not published
        if prefix == ".old" and not (directory / name).exists():
            folder.rename(directory / name)
        elif prefix in (".tmp", ".old", ".del") and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)
    for path in (*directory.glob(".*"), *directory.glob("step_*/.*")):  # and beside the card of a checkpoint
        if (_LINK.fullmatch(path.name) and path.is_symlink()) or _TEMPORARY.fullmatch(path.name):
            path.unlink()
