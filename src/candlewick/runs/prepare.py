"""Make what a run reads: the tokenizer, and token datasets of its text. What is up to date is not made again.

    RUN/  tokenizer/  tokens/  ...        with `keeps_data`, for `orchestrate`; else CACHE/tokens-0123456789abcdef/

In the cache names are made from what datasets are made of, so that the next run with the same text finds them. The
run's config then names them: it goes on without the text as long as they are there.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from candlewick.artifacts.build import Recipe, find_built, require_same
from candlewick.artifacts.manifest import (
    MANIFEST,
    Manifest,
    json_sha256,
    publish,
    read_manifest,
    replace_durable,
    staging,
    write_durable,
)
from candlewick.config import DataConfig, RunConfig
from candlewick.config.tree import dump
from candlewick.data.rows.batches import BatchSchedule
from candlewick.data.text.corpus import Corpus
from candlewick.data.text.file_ranges import TextFile
from candlewick.data.tokens.cache import touch
from candlewick.data.tokens.dataset import TokenDataset, is_token_dataset
from candlewick.data.tokens.prepare import EncodeJob, misses_tokens, prepare_tokens
from candlewick.errors import ArtifactError, ConfigError
from candlewick.runs.resolve import PreparePlan, open_texts
from candlewick.runs.sharding import Notify, make_shards
from candlewick.runs.sources import (
    all_sources,
    encoding_tokenizer,
    source_dataset,
    training_sources,
    with_datasets,
)
from candlewick.runs.tokenizer import (
    holds_tokenizer,
    make_tokenizer,
    own_manifest,
    remove_tokenizer,
    tokenizer_recipe,
)
from candlewick.terminal import bytes_progress, shown_path
from candlewick.tokenizer.artifact import KIND, VERSION
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.train.plan import Resume, Start

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run whose text is tokenized."""

    config: RunConfig  # names the token datasets of its text. Nobody changes it any more.
    run_dir: Path
    start: Start
    batches: BatchSchedule  # as if the run were new
    tokenizer: Tokenizer
    datasets: Mapping[str, TokenDataset]  # opened and verified, by name


def prepare_run(plan: PreparePlan, notify: Notify = logger.info) -> PreparedRun:
    """Make what is not there yet, and open it; `notify` receives a line per stage.

    Raises ConfigError for a run on other text, DataError and ArtifactError for text or folders of no use.
    """
    config, data = plan.config, plan.config.data
    make_shards(plan.shard_jobs, data, notify)
    texts = open_texts(data) if plan.texts is None else plan.texts
    if isinstance(plan.start, Resume):
        _require_same_text(plan, texts)
    tokenizer = plan.tokenizer.tokenizer
    if texts:
        tokenizer = encoding_tokenizer(_make_tokenizer(plan, texts, notify), data)
        folders = {name: _make_dataset(plan, name, texts, tokenizer, notify) for name in texts}
        config = with_datasets(config, folders, texts)
    assert tokenizer is not None, "token datasets bring theirs"
    tokenizer = encoding_tokenizer(tokenizer, data)
    datasets = _open_datasets(config.data, tokenizer)
    return PreparedRun(config, plan.run_dir, plan.start, plan.batches, tokenizer, datasets)


def _require_same_text(plan: PreparePlan, texts: Mapping[str, Corpus]) -> None:
    """Raise ConfigError if datasets in the run folder were made of other text, or otherwise: none is replaced."""
    assert plan.tokenizer.tokenizer is not None, "a run that goes on has one"
    tokenizer = encoding_tokenizer(plan.tokenizer.tokenizer, plan.config.data)
    for name, folder in (plan.folders or {}).items():
        if (folder / MANIFEST).is_file():
            job, former = _encode_job(plan, name, texts, tokenizer)
            manifest, recipe = read_manifest(folder), job.recipe()
            is_same = (dict(manifest.inputs), dict(manifest.config)) == (dict(recipe.inputs), dict(recipe.config))
            if not is_same and former is None and not _is_former(folder, recipe):
                raise ConfigError(
                    f"{plan.run_dir} holds a run on other text, or on text that was prepared otherwise",
                    "put text and settings back, or choose another --run-dir",
                )


def _is_former(folder: Path, recipe: Recipe) -> bool:
    """Return whether a dataset of a former version was made of this text, with these settings as far as it says.

    A run that goes on keeps it: another would have its rows in another order.
    """
    if not is_token_dataset(folder) or (manifest := read_manifest(folder)).version >= recipe.version:
        return False
    made = {**manifest.inputs, **manifest.config}
    return made.items() <= {**recipe.inputs, **recipe.config}.items()


def notify_stage(notify: Notify, name: str, folder: Path, reused: bool, figures: str) -> None:
    """Report that a stage made its folder, or that its folder was up to date."""
    notify(f"{name:<10} {'reused, up to date' if reused else 'made'}: {shown_path(folder)} ({figures})")


def _make_dataset(
    plan: PreparePlan, name: str, texts: Mapping[str, Corpus], tokenizer: Tokenizer, notify: Notify
) -> Path:
    """Encode one source, unless it was; return the folder.

    Of training text a part is held out unless there is validation text.
    """
    data, (job, former) = plan.config.data, _encode_job(plan, name, texts, tokenizer)
    folder, recipe = plan.run_dir / name, job.recipe()
    if isinstance(plan.start, Resume) and _is_former(folder, recipe):
        manifest, reused = read_manifest(folder), True
    elif former is not None and job.before is None:
        (folder, manifest), reused = former, True
    else:
        if job.before is not None:
            folder = job.before[0].parent / _cache_name(recipe)
        elif not plan.keeps_data and find_built(folder, recipe, hashes=False) is None:  # not by `orchestrate`
            folder = _cache_folder(data, recipe)
        with bytes_progress(name) as progress:
            manifest, reused = prepare_tokens(job, folder, progress=progress)
    tokens = {split: counts["tokens"] for split, counts in manifest.details["splits"].items()}
    figures = f"{tokens['train']:,} to train on, {tokens['validation']:,} held out"
    figures += f", behind {job.before[0].name}" if job.before else ""
    notify_stage(notify, name, folder, reused, figures)
    return folder


def _encode_job(
    plan: PreparePlan, name: str, texts: Mapping[str, Corpus], tokenizer: Tokenizer
) -> tuple[EncodeJob, tuple[Path, Manifest] | None]:
    """Return the job of a source, and the dataset of its text that the run has read until now, if it goes on."""
    text, data, is_training = texts[name], plan.config.data, name in training_sources(plan.config.data)
    sides: tuple[Corpus | None, Corpus | None] = (text, None) if is_training else (None, text)
    sources = tuple(texts[name] for name in training_sources(data) if name in texts)
    job = EncodeJob(*sides, tokenizer, data, is_training and not data.validation_shards, sources)
    if not isinstance(plan.start, Resume):
        return job, None
    assert plan.start.checkpoint.config is not None, "a checkpoint of a run has one"
    folder = plan.start.checkpoint.config.data.prepared.get(name)
    if folder is None or not is_token_dataset(folder) or not job.begins_with(manifest := read_manifest(folder)):
        return job, None
    former = folder, manifest
    return replace(job, before=former if misses_tokens(manifest, data.max_tokens) else None), former


def _cache_folder(data: DataConfig, recipe: Recipe) -> Path:
    if data.cache_dir is None:
        raise ConfigError("there is no folder to keep prepared text in", "set data.cache_dir")
    return data.cache_dir / _cache_name(recipe)


def _cache_name(recipe: Recipe) -> str:
    identity: list[object] = [recipe.inputs, recipe.config]
    if recipe.version > 1:  # what an older version made stays where runs of that version read it
        identity.append(recipe.version)
    return f"{recipe.kind}-{json_sha256(identity)[:16]}"


def _make_tokenizer(plan: PreparePlan, texts: Mapping[str, Corpus], notify: Notify) -> Tokenizer:
    """Return the run's tokenizer, trained if it has to be."""
    choice, data, reused = plan.tokenizer, plan.config.data, True
    tokenizer, folder = choice.tokenizer, choice.source
    if tokenizer is None or folder is None:
        for obsolete in choice.retrain:
            remove_tokenizer(obsolete)
        # they may name where the new one goes
        nothing = dict.fromkeys(("tokenizer_json", "vocab", "merges", "special_tokens"))
        settings = plan.config.tokenizer.replaced(**nothing)
        text = training_text(data, texts)
        folder = choice.source or _cache_folder(data, tokenizer_recipe(text, settings))
        with bytes_progress("tokenizer") as progress:
            _, reused = make_tokenizer(text, settings, folder, progress=progress)
        touch(folder)
        tokenizer = Tokenizer.load(folder)
    if choice.reason == "named":
        notify(f"tokenizer  given: {shown_path(folder)}")
    else:
        notify_stage(notify, "tokenizer", folder, reused, f"{tokenizer.vocab_size:,} tokens")
    if choice.copy_to is not None and choice.copy_to != folder:
        _copy_tokenizer(tokenizer, folder, choice.copy_to)
    return tokenizer


def prepare_tokenizer(config: RunConfig, output: Path, *, replace_other: bool = False) -> tuple[Manifest, bool]:
    """Train a tokenizer on a config's training text; return its manifest, and whether it was there already.

    One that was made otherwise is only replaced with `replace_other`. Raises ConfigError without text or for a
    finished tokenizer, DataError, ArtifactError: see `make_tokenizer`.
    """
    texts = open_texts(
        config.data.replaced(validation_shards=(), validation_sets={}, prepared={}, prepared_from={})
    )
    if not texts:
        raise ConfigError(
            "there is no text to train on",
            "name files, folders, stories:// or stdlib://, or a --config that names some",
        )
    text = training_text(config.data, texts)
    if not replace_other:
        require_same(output, tokenizer_recipe(text, config.tokenizer))
    with bytes_progress("tokenizer") as progress:
        return make_tokenizer(text, config.tokenizer, output, progress=progress)


def training_text(data: DataConfig, texts: Mapping[str, Corpus]) -> Corpus:
    """Return all text that is trained on as one, each file of it once."""
    training = [texts[name] for name in training_sources(data) if name in texts]
    if len(training) == 1:
        return training[0]
    by_place: dict[Path | tuple[str, str], TextFile] = {}
    for file in (file for text in training for file in text.files):
        by_place.setdefault(file.place, file)
    return Corpus(tuple(by_place.values()), training[0].reading)


def _copy_tokenizer(tokenizer: Tokenizer, source: Path, target: Path) -> None:
    """Copy a tokenizer to `target`, with the manifest of its training if there is one, unless it is there."""
    if holds_tokenizer(target) and Tokenizer.load(target).sha256 == tokenizer.sha256:
        return
    with staging(target) as aside:
        if holds_tokenizer(source) and (manifest := own_manifest(source)) is not None:
            for entry in manifest.files:
                write_durable(aside / entry.name, (source / entry.name).read_bytes())
        else:
            files = tuple(tokenizer.write(aside))
            manifest = Manifest(KIND, VERSION, {"tokenizer": tokenizer.sha256}, {}, files, {}, {})
        publish(aside, target, manifest)


def _open_datasets(data: DataConfig, tokenizer: Tokenizer) -> dict[str, TokenDataset]:
    """Open the datasets that settings name, each once. Raises DataError for one of another tokenizer."""
    folders = {name: folder for name in all_sources(data) if (folder := source_dataset(data, name)) is not None}
    sha256 = tokenizer.sha256
    try:
        datasets = {folder: TokenDataset.open(folder, tokenizer_sha256=sha256) for folder in set(folders.values())}
    except ArtifactError as error:
        if not data.prepared:
            raise
        raise ArtifactError(error.problem, "remove its dataset: it is made again from the text") from None
    for part in (part for dataset in datasets.values() for part in dataset.parts):
        touch(part.folder)
    return {name: datasets[folder] for name, folder in folders.items()}


def describe_run(run: PreparedRun) -> None:
    """Write the run's files for `candlewick train` and for readers of transformer_candle's run folders.

    `training.yaml` and `training.toml` hold the config, `special_tokens.txt` a JSON array.
    """
    special_tokens = json.dumps(list(run.tokenizer.special_tokens), ensure_ascii=False)
    run.run_dir.mkdir(parents=True, exist_ok=True)
    replace_durable(run.run_dir / "special_tokens.txt", special_tokens.encode())
    replace_durable(run.run_dir / "training.yaml", dump(run.config, "yaml", run.run_dir).encode())
    replace_durable(run.run_dir / "training.toml", dump(run.config, "toml", run.run_dir).encode())
