"""Make what a run reads: the tokenizer, and token datasets of its text. What is up to date is not made again.

    RUN/  tokenizer/  tokens/  ...        with `keeps_data`, for `orchestrate`; else CACHE/tokens-0123456789abcdef/

In the cache names are made from what datasets are made of, so that the next run with the same text finds them. The
run's config then names them: it goes on without the text as long as they are there.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from candlewick.artifacts.build import Recipe
from candlewick.artifacts.manifest import (
    MANIFEST,
    Manifest,
    json_sha256,
    publish,
    read_manifest,
    replace_durable,
    require_replaceable,
    staging,
    write_durable,
)
from candlewick.config import DataConfig, RunConfig
from candlewick.config.tree import dump_toml, dump_yaml
from candlewick.data.rows.batches import BatchSchedule
from candlewick.data.text.corpus import Corpus
from candlewick.data.text.pieces import SourceFile
from candlewick.data.text.source_files import SourceFiles
from candlewick.data.tokens.cache import touch, trim
from candlewick.data.tokens.dataset import TokenDataset
from candlewick.data.tokens.prepare import EncodeJob, prepare
from candlewick.errors import ConfigError
from candlewick.runs.resolve import PreparePlan, Text, open_texts
from candlewick.runs.sharding import Say, write_shards
from candlewick.runs.sources import all_sources, encoding_tokenizer, training_sources, with_datasets
from candlewick.runs.tokenizer import make_tokenizer, tokenizer_recipe
from candlewick.terminal import bytes_progress
from candlewick.tokenizer.artifact import KIND, VERSION
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.train.plan import Resume, Start

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run whose tokens are there."""

    config: RunConfig  # names token datasets in the place of text. Nobody changes it any more.
    run_dir: Path
    start: Start
    batches: BatchSchedule  # as if the run were new
    tokenizer: Tokenizer
    datasets: Mapping[str, TokenDataset]  # opened and verified, by name


def prepare_run(plan: PreparePlan, say: Say = logger.info) -> Prepared:
    """Make what is not there yet, and open it; `say` receives a line per stage.

    Raises ConfigError for a run on other text, DataError and ArtifactError for text or folders of no use.
    """
    data, choice = plan.config.data, plan.tokenizer
    tokenizer, source, folders, made = choice.tokenizer, choice.source, dict[str, Path](), False
    write_shards(plan.shard_jobs, data, say)
    texts = open_texts(data) if plan.texts is None else plan.texts
    if isinstance(plan.start, Resume):
        _require_same_text(plan, texts)
    if texts:
        tokenizer, source, made = _make_tokenizer(plan, texts, say)
        tokenizer = encoding_tokenizer(tokenizer, data)
        for name, text in texts.items():
            job = _job(data, name, text, tokenizer)
            folder = plan.folders[name] if plan.folders else _cached(data, job.recipe())
            with bytes_progress(name) as progress:
                manifest, reused = prepare(job, folder, progress=progress)
            tokens = {split: counted["tokens"] for split, counted in manifest.details["splits"].items()}
            counts = f"{tokens['train']:,} to train on, {tokens['validation']:,} held out"
            say_stage(say, name, folder, reused, counts)
            folders[name] = folder
            made |= not reused
    config = with_datasets(plan.config, folders) if folders else plan.config
    tokenizer, datasets = _open_datasets(config.data, tokenizer)
    prepared = Prepared(config, plan.run_dir, plan.start, plan.batches, tokenizer, datasets)
    if made and not plan.keeps_data:
        _trim_cache(prepared, source)
    return prepared


def _require_same_text(plan: PreparePlan, texts: Mapping[str, Text]) -> None:
    """Raise ConfigError if datasets in the run folder were made of other text."""
    for name, folder in (plan.folders or {}).items():
        if (folder / MANIFEST).is_file():
            side = "corpus" if name in training_sources(plan.config.data) else "validation_corpus"
            if read_manifest(folder).inputs.get(side) != texts[name].fingerprint:
                raise ConfigError(
                    f"{plan.run_dir} holds a run on other text", "choose another --run-dir, or delete that folder"
                )


def say_stage(say: Say, name: str, folder: Path, reused: bool, counts: str) -> None:
    """Say that a stage was made, or was there."""
    say(f"{name:<10} {'reused, up to date' if reused else 'made'}: {folder} ({counts})")


def _job(data: DataConfig, name: str, text: Text, tokenizer: Tokenizer) -> EncodeJob:
    """Return the work on one source: of training text a part is held out unless there is validation text."""
    is_training = name in training_sources(data)
    sides: tuple[Text | None, Text | None] = (text, None) if is_training else (None, text)
    return EncodeJob(*sides, tokenizer, data, hold_out=is_training and not data.validation_shards)


def _cached(data: DataConfig, recipe: Recipe) -> Path:
    if data.cache_dir is None:
        raise ConfigError("there is no folder to keep prepared text in", "set data.cache_dir")
    return data.cache_dir / f"{recipe.kind}-{json_sha256([recipe.inputs, recipe.config])[:16]}"


def _make_tokenizer(plan: PreparePlan, texts: Mapping[str, Text], say: Say) -> tuple[Tokenizer, Path | None, bool]:
    """Return the run's tokenizer, trained if it has to be, where it lies, and whether it was trained now."""
    choice = plan.tokenizer
    if choice.tokenizer is not None:
        if choice.reason == "given":
            say(f"tokenizer  given: {choice.source}")
        elif choice.source is not None:
            say_stage(say, "tokenizer", choice.source, True, f"{choice.tokenizer.vocab_size:,} tokens")
        _copy_tokenizer(choice.tokenizer, choice.source, choice.copy_to)
        return choice.tokenizer, choice.source, False
    for folder in choice.retrain:
        require_replaceable(folder, KIND)
        shutil.rmtree(folder, ignore_errors=True)
    data = plan.config.data
    settings = plan.config.tokenizer.replaced(tokenizer_json=None)  # it may name where the new one goes
    text = training_text(data, texts)
    folder = choice.source or _cached(data, tokenizer_recipe(text, settings))
    with bytes_progress("tokenizer") as progress:
        manifest, reused = make_tokenizer(text, settings, folder, progress=progress)
    say_stage(say, "tokenizer", folder, reused, f"{manifest.details['vocab_size']:,} tokens")
    touch(folder)
    tokenizer = Tokenizer.load(folder)
    _copy_tokenizer(tokenizer, folder, choice.copy_to)
    return tokenizer, folder, not reused


def train_tokenizer(config: RunConfig, output: Path) -> tuple[Manifest, bool]:
    """Train a tokenizer on a config's training text; return its manifest, and whether it was there already.

    Raises ConfigError without text, and what `make_tokenizer` raises.
    """
    texts = open_texts(config.data.replaced(validation_shards=(), validation_sets={}))
    if not texts:
        raise ConfigError("there is no text to train on", "name files, folders or stdlib://")
    with bytes_progress("tokenizer") as progress:
        return make_tokenizer(training_text(config.data, texts), config.tokenizer, output, progress=progress)


def training_text(data: DataConfig, texts: Mapping[str, Text]) -> Text:
    """Return all text that is trained on as one, each file of it once."""
    training = [texts[name] for name in training_sources(data) if name in texts]
    if len(training) == 1:
        return training[0]
    files = tuple(dict.fromkeys(file for text in training for file in text.files))
    local = tuple(file for file in files if isinstance(file, SourceFile))
    return Corpus(local, data) if len(local) == len(files) else SourceFiles(files, data)


def _copy_tokenizer(tokenizer: Tokenizer, source: Path | None, target: Path | None) -> None:
    """Put a tokenizer into the run's folder, if it wants one, unless it is there."""
    if target is None or source == target:
        return
    if (target / MANIFEST).is_file() and Tokenizer.load(target).sha256 == tokenizer.sha256:
        return
    with staging(target) as aside:
        if source is not None and (source / MANIFEST).is_file() and read_manifest(source).kind == KIND:
            manifest = read_manifest(source)
            for entry in manifest.files:
                write_durable(aside / entry.name, (source / entry.name).read_bytes())
        else:
            files = tuple(tokenizer.write(aside))
            manifest = Manifest(KIND, VERSION, {"tokenizer": tokenizer.sha256}, {}, files)
        publish(aside, target, manifest)


def _open_datasets(data: DataConfig, tokenizer: Tokenizer | None) -> tuple[Tokenizer, dict[str, TokenDataset]]:
    """Open the datasets that settings name, each once; check that they have one tokenizer, and return it too."""
    folders = {name: Path(uris[0]) for name, uris in all_sources(data).items()}
    if tokenizer is None:
        tokenizer = Tokenizer.load(next(iter(folders.values())) / "tokenizer")
    for folder in folders.values():
        touch(folder)
    sha256 = tokenizer.sha256
    opened = {folder: TokenDataset.open(folder, tokenizer_sha256=sha256) for folder in set(folders.values())}
    return tokenizer, {name: opened[folder] for name, folder in folders.items()}


def _trim_cache(prepared: Prepared, tokenizer: Path | None) -> None:
    """Keep the cache to its size, if it has one; what this run uses stays."""
    data = prepared.config.data
    if data.cache_max_bytes is not None and data.cache_dir is not None:
        used = {dataset.folder for dataset in prepared.datasets.values()}
        if tokenizer is not None:
            used |= {tokenizer, *tokenizer.parents}
        trim(data.cache_dir, data.cache_max_bytes, used)


def describe_run(prepared: Prepared) -> None:
    """Write what `candlewick train` and readers of transformer_candle's run folders want to know.

    `training.yaml` and `training.toml` hold the config with absolute paths, `special_tokens.txt` a JSON array.
    """
    run_dir = prepared.run_dir
    special = json.dumps(list(prepared.tokenizer.special_tokens), ensure_ascii=False)
    run_dir.mkdir(parents=True, exist_ok=True)
    replace_durable(run_dir / "special_tokens.txt", special.encode())
    replace_durable(run_dir / "training.yaml", dump_yaml(prepared.config).encode())
    replace_durable(run_dir / "training.toml", dump_toml(prepared.config).encode())
