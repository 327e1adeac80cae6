"""Token datasets and text shards made or examined on their own, not for a run. Torch is not imported."""

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from candlewick.artifacts.build import require_same
from candlewick.artifacts.manifest import MANIFEST, Manifest
from candlewick.config import DataConfig, RunConfig
from candlewick.data.shards.clean import Cleaning
from candlewick.data.shards.fetch import DATASETS, FetchResult, download_datasets, find_datasets
from candlewick.data.shards.write import Outputs, ShardSettings, verify_text_shards, write_text_shards
from candlewick.data.tokens.cache import CachedFolder, list_cache, remove_cached
from candlewick.data.tokens.dataset import TokenDataset, is_token_dataset, verify_shards
from candlewick.data.tokens.prepare import EncodeJob, prepare_tokens
from candlewick.errors import ConfigError, DataError
from candlewick.runs.sources import find_tokenizer, open_tokenizer
from candlewick.terminal import bytes_progress
from candlewick.tokenizer.bpe import Tokenizer

KNOWN_DATASETS = {name: dataset.source for name, dataset in DATASETS.items()}
"""Addresses of the datasets that `fetch_datasets` knows by name."""


def prepare_dataset(
    config: RunConfig, output: Path, tokenizer: Path | None, *, replace_other: bool = False
) -> dict[str, Any]:
    """Encode the text of a config into the token dataset `output`; return its manifest, and whether it was
    "reused".

    `tokenizer` is a folder, by default the config names one. A dataset that was made otherwise is only replaced
    with `replace_other`. Raises ConfigError without a tokenizer and for a mixture, else DataError, ArtifactError
    or RunInterrupted.
    """
    if config.data.mixture:
        raise ConfigError("a mixture is prepared one source at a time", "name one; `train` prepares all of them")
    loaded = Tokenizer.load(find_tokenizer(tokenizer)) if tokenizer else open_tokenizer(config.tokenizer)
    if loaded is None:
        raise ConfigError("no tokenizer is named", "give --tokenizer DIR; `candlewick tokenizer train` makes one")
    job = EncodeJob.from_config(config.data, loaded)
    if not replace_other:
        require_same(output, job.recipe())
    with bytes_progress("data") as progress:
        manifest, reused = prepare_tokens(job, output, progress=progress)
    return {"output": str(output), "reused": reused, **_summary(manifest)}


def _summary(manifest: Manifest) -> dict[str, Any]:
    return {"id": manifest.id, "details": manifest.details, "config": manifest.config, "inputs": manifest.inputs}


def verify_dataset(folder: Path) -> dict[str, Any]:
    """Read every byte of a token dataset or of text shards. Raises ArtifactError that names the damaged file."""
    if not is_token_dataset(folder):
        count, size = verify_text_shards(folder)
        return {"dataset": str(folder), "ok": True, "files": count, "bytes": size}
    dataset = TokenDataset.open(folder, rehash=True)
    verify_shards(dataset)
    files = dataset.manifest.files
    sizes = {"files": len(files), "bytes": sum(entry.bytes for entry in files)}
    return {"dataset": str(folder), "ok": True, **sizes, **_summary(dataset.manifest)}


def inspect_dataset(folder: Path, num_tokens: int) -> dict[str, Any]:
    """Return what the manifest of a token dataset says, and the `ids` and `text` of its first tokens."""
    dataset = TokenDataset.open(folder)
    tokenizer = Tokenizer.load(folder / "tokenizer")
    split = dataset.split("train" if dataset.manifest.details["splits"]["train"]["tokens"] else "validation")
    ids = split.read_tokens(0, min(num_tokens, split.num_tokens)).tolist()
    decoded = {"ids": ids, "text": tokenizer.decode(ids, skip_special=False)} if ids else {}
    return {**_summary(dataset.manifest), **decoded}


def find_cached(cache: Path, names: Sequence[str] = (), unused_days: int | None = None) -> list[CachedFolder]:
    """Return folders of a cache: those of `names` and those that no run opened for so many days, or else all.

    Raises DataError for a name that is not there.
    """
    folders = list_cache(cache)
    if missing := sorted(set(names) - {folder.name for folder in folders}):
        raise DataError(f"{cache} has no {', '.join(missing)}", f"see `candlewick data cache {cache}`")
    if not names and unused_days is None:
        return folders
    oldest = -math.inf if unused_days is None else time.time() - unused_days * 86_400
    return [folder for folder in folders if folder.name in names or folder.used <= oldest]


def clear_cache(cache: Path, folders: Sequence[CachedFolder]) -> list[str]:
    """Remove folders of a cache; return their names. Raises DataError, after the others, for those in use."""
    removed, problems = list[str](), list[DataError]()
    for folder in folders:
        try:
            remove_cached(cache / folder.name)
            removed.append(folder.name)
        except DataError as error:
            problems.append(error)
    if problems:
        told = f"; removed: {', '.join(removed)}" if removed else ""
        raise DataError("; ".join(error.problem for error in problems) + told, problems[0].fix)
    return removed


def write_shards(
    sources: Sequence[str],
    outputs: Outputs,
    settings: ShardSettings,
    config: DataConfig,
    *,
    cache: Path | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Write text as shards, unless they are there; return "reused", and the id and details of each folder.

    Files of the Hub lie in `cache` while they are read; `workers` of them are downloaded ahead. Raises
    ConfigError, DataError, ArtifactError, MachineError or RunInterrupted: see `write_text_shards`.
    """
    if cache is not None:  # two commands may share a cache, so each output has its folder
        key = hashlib.sha256(str(outputs.train.absolute()).encode()).hexdigest()[:16]
        outputs = replace(outputs, downloads=cache / f"candlewick-shards-{key}")
    with bytes_progress("shards") as progress:
        manifests, reused = write_text_shards(sources, outputs, settings, config, ahead=workers, progress=progress)
    folders = zip((outputs.train, outputs.validation), manifests, strict=False)
    return {"reused": reused, "outputs": [{"output": str(f), "id": m.id, **m.details} for f, m in folders]}


def fetch_datasets(
    words: Sequence[str],
    output: Path,
    workers: int,
    *,
    take: int | None,
    documents_per_shard: int,
) -> list[FetchResult]:
    """Download datasets by name, by address or by list file; `take`, if given, is of each.

    Raises ConfigError and RunInterrupted.
    """
    datasets = [dataset.replaced(take=take or dataset.take) for dataset in find_datasets(words)]
    with bytes_progress("fetch") as progress:
        return download_datasets(
            datasets, output, ShardSettings(documents_per_shard), ahead=workers, progress=progress
        )


def preprocess_corpora(
    inputs: Sequence[Path],
    output: Path,
    cleaning: Cleaning,
    config: DataConfig,
    *,
    format: Literal["jsonl", "text"],
    which: str,
) -> dict[str, dict[str, Any]]:
    """Clean each corpus in the folders `inputs` into text shards in a folder of `output`; return details by name.

    `which` is "fetched" (those of `fetch_datasets`), "all", or a name: all corpora as one. Raises DataError for a
    folder without corpora, ConfigError for one that has text beside them.
    """
    settings = ShardSettings(format=format, cleaning=cleaning)
    details: dict[str, dict[str, Any]] = {}
    corpora: dict[str, list[Path]] = {}
    for folder in inputs:
        for name, folders in _corpora(folder, which).items():
            corpora.setdefault(name, []).extend(folders)
    for name, folders in corpora.items():
        outputs = Outputs(output / name, output / "val")  # nothing is held out
        with bytes_progress(name) as progress:
            manifests, _ = write_text_shards(
                [str(path) for path in folders], outputs, settings, config, progress=progress
            )
        details[name] = dict(manifests[0].details)
    return details


def _corpora(folder: Path, which: str) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist", "put text into it, or give --input DIR")
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if which == "fetched":
        inner = [path for path in inner if (path / MANIFEST).is_file()]
        if not inner:
            raise DataError(f"{folder} has nothing that `candlewick data fetch` brought", "fetch first")
    has_files = any(path.is_file() and path.suffix != ".json" for path in folder.iterdir())
    if has_files and inner and which in ("all", "fetched"):
        raise ConfigError(f"{folder} has text beside folders of corpora", "give --mixed, or move it into a folder")
    if which not in ("all", "fetched"):
        return {which: inner if inner and not has_files else [folder]}
    return {f"{path.name}_corpus": [path] for path in inner or [folder]}
