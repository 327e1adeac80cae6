"""The text of a run as shards with hashes, in folders that other runs share.

TRAIN/<experiment>/train_0000.jsonl ... manifest.json   made here, or by `data shard`
VALIDATION/<experiment>/                                of validation text, if there is some of its own
"""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from candlewick.artifacts.manifest import MANIFEST
from candlewick.config import DataConfig
from candlewick.data.shards.write import Outputs, ShardSettings, verify_text_shards, write_text_shards
from candlewick.data.text.folders import is_text_artifact
from candlewick.errors import ConfigError, DataError
from candlewick.hub import SCHEME
from candlewick.runs.sources import token_dataset
from candlewick.terminal import bytes_progress

_SHARD = re.compile(r"(train|val|validation)[-_]\d+\.(jsonl|txt)(\.gz)?|manifest\.json")

Notify = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sharding:
    """Folders and sizes of shards by side, "train" and "validation", and what happens to shards that are there."""

    folders: Mapping[str, Path]
    documents: Mapping[str, int]  # per shard
    existing: Literal["refuse", "reuse", "remake"] = "refuse"


@dataclass(frozen=True, slots=True)
class ShardJob:
    """The shards of one side: whether and where they are written."""

    action: Literal["keep", "reuse", "write"]  # keep: it is read as it is, because it cannot be shards
    uris: tuple[str, ...]
    folders: tuple[Path, ...]  # of its shards, and of those that are held out of it
    settings: ShardSettings


def plan_shards(data: DataConfig, sharding: Sharding) -> tuple[DataConfig, tuple[ShardJob, ...]]:
    """Return the settings with shards in the place of `train_shards` and `validation_shards`, and how they come.

    Without validation text documents are held out, by the hash of each, into shards of their own. A mixture,
    validation sets, chats and token datasets stay as they are. Raises ConfigError for shards that are in the way.
    """
    jobs: list[ShardJob] = []
    shards: dict[str, tuple[str, ...]] = {}
    for side in ("train", "validation"):
        folder, validation = sharding.folders[side], sharding.folders["validation"]
        uris: tuple[str, ...] = getattr(data, f"{side}_shards")
        is_there, is_named = _is_filled(folder), uris == (str(folder),)
        holds_out = side == "train" and data.validation_shards in ((), (str(validation),))
        settings = ShardSettings(
            sharding.documents[side],
            take=data.max_documents
            if side == "train" and any(uri.startswith(SCHEME) for uri in uris[:1])
            else None,
            validation_fraction=data.validation_fraction if holds_out else 0.0,
            split=data.hub_split if side == "train" else side,
        )
        if uris and (data.format == "chat" or token_dataset(uris) is not None):
            jobs.append(ShardJob("keep", uris, (), settings))
        elif is_there and (sharding.existing == "reuse" or (is_named and sharding.existing == "refuse")):
            jobs.append(ShardJob("reuse", uris, (folder,), settings))
            shards[side] = (str(folder),)
        elif not uris or (is_named and not is_there):  # what is going to be made is not a source of it
            shards[side] = ()
        else:
            folders = (folder, validation) if holds_out else (folder,)
            for output in filter(_is_filled, folders):
                _require_removable(output, uris, sharding.existing)
            jobs.append(ShardJob("write", uris, folders, settings))
            shards |= {name: (str(output),) for name, output in zip((side, "validation"), folders, strict=False)}
            if holds_out:
                break
    return data.replaced(**{f"{side}_shards": uris for side, uris in shards.items()}), tuple(jobs)


def make_shards(jobs: Sequence[ShardJob], data: DataConfig, notify: Notify) -> None:
    """Write or verify shards. Raises DataError and ArtifactError for text or shards of no use."""
    for job in jobs:
        if job.action == "keep":
            notify(f"shards     not made of {', '.join(job.uris)[:200]}: only text is written as shards")
            continue
        folder, *heldout = job.folders
        if job.action == "reuse":
            notify(f"shards     reused: {folder} ({_verify(folder)})")
            continue
        for output in filter(_is_filled, job.folders):
            shutil.rmtree(output)
        outputs = Outputs(folder, *heldout or [folder])
        with bytes_progress("shards") as progress:
            manifests, _ = write_text_shards(job.uris, outputs, job.settings, data, progress=progress)
        for output, manifest in zip(job.folders, manifests, strict=True):
            notify(f"shards     made: {output} ({manifest.details['total_lines']:,} documents)")


def _is_filled(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _verify(folder: Path) -> str:
    """Return in words what was verified of shards. Raises DataError and ArtifactError for damaged ones."""
    for path in folder.iterdir():
        if path.is_file() and not path.stat().st_size:
            raise DataError(f"the shard {path} is empty", "give --force-reshard, or restore it")
    if not (folder / MANIFEST).is_file():
        return "there are no hashes to check"
    count, size = verify_text_shards(folder)
    return f"{count} files, {size:,} bytes, all hashes match"


def _require_removable(folder: Path, uris: tuple[str, ...], existing: str) -> None:
    """Raise ConfigError for shards that are not to be made anew, and for a folder of something else."""
    if existing != "remake":
        raise ConfigError(f"{folder} holds shards already", "give --reuse-shards to take them, or --force-reshard")
    strange = next((path.name for path in folder.iterdir() if not _SHARD.fullmatch(path.name)), None)
    why = None
    if any(Path(uri).resolve().is_relative_to(folder.resolve()) for uri in uris if "://" not in uri):
        why = "it is read from"
    elif not ((folder / MANIFEST).is_file() and is_text_artifact(folder)):
        why = "it has no manifest of shards"
    elif strange is not None:
        why = f"{strange} is not a shard"
    if why is not None:
        raise ConfigError(f"{folder} is not removed for new shards: {why}", "give --reuse-shards, or move it away")
