"""The text of a run as shards with hashes, in folders that other runs share.

TRAIN/<experiment>/train_0000.jsonl ... manifest.json   made here, or by `data shard`
VALIDATION/<experiment>/                                of validation text, if there is some of its own
"""

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from candlewick.artifacts.manifest import MANIFEST
from candlewick.config import DataConfig
from candlewick.data.shards.write import Outputs, ShardSettings, verify_text_shards, write_text_shards
from candlewick.data.text.corpus import is_text_artifact
from candlewick.errors import ConfigError, DataError
from candlewick.hub import SCHEME
from candlewick.runs.sources import token_dataset
from candlewick.terminal import bytes_progress

_SHARD = re.compile(r"(train|val|validation)[-_]\d+\.(jsonl|txt)(\.gz)?|manifest\.json")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sharding:
    """Where shards go, and what happens to those that are there; of each side, "train" and "validation"."""

    folders: Mapping[str, Path]
    documents: Mapping[str, int]  # per shard
    existing: Literal["refuse", "reuse", "remake"] = "refuse"


def shard_text(config: DataConfig, sharding: Sharding, say: Say) -> DataConfig:
    """Return the settings with shards in the place of `train_shards` and `validation_shards`.

    Without validation text documents are held out, by the hash of each, into shards of their own. A mixture,
    validation sets, chats and token datasets stay as they are. Raises ConfigError for shards that are there,
    DataError and ArtifactError for text or shards that cannot be used.
    """
    update: dict[str, tuple[str, ...]] = {}
    for side in ("train", "validation"):
        folder, validation = sharding.folders[side], sharding.folders["validation"]
        uris: tuple[str, ...] = getattr(config, f"{side}_shards")
        is_there, is_named = _is_filled(folder), uris == (str(folder),)
        if uris and (config.format == "chat" or token_dataset(uris) is not None):
            say(f"shards     not made of {', '.join(uris)[:200]}: only text is written as shards")
        elif is_there and (sharding.existing == "reuse" or (is_named and sharding.existing == "refuse")):
            say(f"shards     reused: {folder} ({_check(folder)})")
            update[f"{side}_shards"] = (str(folder),)
        elif not uris or (is_named and not is_there):  # what is going to be made is no source of it
            update[f"{side}_shards"] = ()
        else:
            is_all = side == "train" and config.validation_shards in ((), (str(validation),))
            outputs = [folder, validation] if is_all else [folder]
            for output in filter(_is_filled, outputs):
                _make_way(output, uris, sharding.existing)
            take = config.max_documents if uris[0].startswith(SCHEME) and side == "train" else None
            fraction = config.validation_fraction if is_all else 0.0
            split = config.hub_split if side == "train" else side
            settings = ShardSettings(sharding.documents[side], take, fraction, split=split)
            with bytes_progress("shards") as progress:
                made, _ = write_text_shards(
                    list(uris), Outputs(folder, validation), settings, config, progress=progress
                )
            for output, manifest, name in zip(outputs, made, (side, "validation"), strict=False):
                say(f"shards     made: {output} ({manifest.details['total_lines']:,} documents)")
                update[f"{name}_shards"] = (str(output),)
            if is_all:
                break
    return config.replaced(**update)


def _is_filled(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _check(folder: Path) -> str:
    for path in folder.iterdir():
        if path.is_file() and not path.stat().st_size:
            raise DataError(f"the shard {path} is empty", "give --force-reshard, or restore it")
    if not (folder / MANIFEST).is_file():
        return "there are no hashes to check"
    count, size = verify_text_shards(folder)
    return f"{count} files, {size:,} bytes, all hashes match"


def _make_way(folder: Path, uris: tuple[str, ...], existing: str) -> None:
    """Remove shards that are to be made anew. Raises ConfigError if they are not, or are no shards."""
    if existing != "remake":
        raise ConfigError(f"{folder} holds shards already", "give --reuse-shards to take them, or --force-reshard")
    strange = next((path.name for path in folder.iterdir() if not _SHARD.fullmatch(path.name)), None)
    why = None
    if any(Path(uri).resolve().is_relative_to(folder.resolve()) for uri in uris if "://" not in uri):
        why = "it is read from"
    elif not ((folder / MANIFEST).is_file() and is_text_artifact(folder)):
        why = "it has no manifest of shards"
    elif strange is not None:
        why = f"{strange} is no shard"
    if why is not None:
        raise ConfigError(f"{folder} is not removed for new shards: {why}", "give --reuse-shards, or move it away")
    shutil.rmtree(folder)
