"""What a run needs before it trains: shards of text, a tokenizer, tokens, and the settings that name them.

    RUN/  tokenizer/  tokens/  special_tokens.txt  training.yaml  training.toml

Several sources lie side by side under the names that `runs.tokens` gives them. `training.yaml` and
`training.toml` hold the resolved config with absolute paths: `candlewick train --config` accepts either, from any
working directory. `special_tokens.txt` is a JSON array, as the seed wrote it.

A tokenizer is taken, in this order, from the settings, from the run folder, from a folder that several runs share;
else it is trained. The last two only if they are to be taken as they are (`Options`): what was trained with other
settings is then an error. Otherwise one that is not what the settings would give is trained anew.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from candlewick.artifacts.manifest import (
    MANIFEST,
    Manifest,
    publish,
    read_manifest,
    replace_durable,
    require_replaceable,
    staging,
    write_durable,
)
from candlewick.checkpoint.layout import checkpoint_directory, list_checkpoints, newest_valid
from candlewick.checkpoint.load import read_state
from candlewick.config import RunConfig
from candlewick.config.tree import dump_toml, dump_yaml
from candlewick.data.text.source_files import open_text
from candlewick.data.tokens.prepare import Named
from candlewick.errors import ConfigError
from candlewick.runs.sharding import Sharding, shard_text
from candlewick.runs.start import begin
from candlewick.runs.tokens import (
    given_tokenizer,
    make_tokens,
    naming_tokens,
    parts_of,
    text_parts,
    train_tokenizer,
    training_parts,
    with_budget,
)
from candlewick.tokenizer.artifact import KIND, VERSION
from candlewick.tokenizer.bpe import Tokenizer

Json = dict[str, Any]
Say = Callable[[str], None]


@dataclass(slots=True)
class Options:
    """What is asked for besides the settings."""

    skip_tokenizer: bool = False
    """Train none: what is there is taken."""
    retrain_tokenizer: bool = False
    """Train one anew, whatever is there."""
    resume: bool = False
    """There has to be a checkpoint to go on with."""
    prepare_only: bool = False
    """Train nothing."""
    shared_tokenizer: Path | None = None
    """A folder of several runs: its tokenizer is taken, or trained there, and copied to the run's folder."""
    sharding: Sharding | None = None
    """Write text as shards first; None: it is read where it is."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that can be trained."""

    config: RunConfig
    """Names token datasets in the place of text."""
    tokens: dict[str, str]
    """The id of each dataset."""
    parent: dict[str, str]
    """The id of the checkpoint that it starts from, as "parent", if it does."""
    is_started: bool


def prepare_run(config: RunConfig, run_dir: Path, say: Say, options: Options) -> Prepared:
    """Make in `run_dir`, an absolute path, what is not there yet. `say` receives a line per stage.

    Raises ConfigError for other settings or text than those of the run in the folder, and what the stages raise.
    """
    directory = checkpoint_directory(run_dir, config.runtime.checkpoint.directory)
    newest = newest_valid(directory) if options.resume or list_checkpoints(directory) else None
    config, parent = begin(config, newest)
    if options.sharding is not None:
        if newest is not None and options.sharding.existing == "remake":
            raise ConfigError(f"{directory} has a run on the shards there are", "choose another --experiment")
        config = config.model_copy(update={"data": shard_text(config.data, options.sharding, say)})
    if not training_parts(config.data):
        raise ConfigError("there is no text to train on", "give --input PATH, --stream or data.train_shards")
    config = with_budget(config)
    folders = {name: run_dir / name for name in text_parts(config.data)}
    training = naming_tokens(config, folders) if folders else config
    # before anything that the run needs is replaced
    is_started = newest is not None and _is_same(config, training, folders, newest)
    if folders:
        tokenizer = _find_tokenizer(config, run_dir, say, options)
        for name, folder in folders.items():
            manifest, reused = make_tokens(config.data, name, tokenizer, folder)
            counts = {split: counted["tokens"] for split, counted in manifest.details["splits"].items()}
            what = f"{counts['train']:,} to train on, {counts['validation']:,} held out"
            say_stage(say, name, folder, reused, what)
    datasets = {name: Path(uris[0]) for name, uris in parts_of(training.data).items()}
    _describe(training, run_dir, next(iter(datasets.values())) / "tokenizer")
    return Prepared(training, {name: read_manifest(d).id for name, d in datasets.items()}, parent, is_started)


def say_stage(say: Say, name: str, folder: Path, reused: bool, what: str) -> None:
    """Say that a stage was made, or was there."""
    say(f"{name:<10} {'reused, up to date' if reused else 'made'}: {folder} ({what})")


def deciding(config: RunConfig) -> Json:
    """Return the settings that decide what comes out: not where things are shown or how many workers help."""
    return config.model_dump(
        mode="json",
        exclude={
            "data": {"cache_dir", "cache_max_bytes", "num_workers"},
            "runtime": {"logging", "log_every_n_steps"},
        },
    )


def _is_same(config: RunConfig, training: RunConfig, folders: Mapping[str, Path], newest: Path) -> bool:
    """Return True for a checkpoint of this config and text. Raises ConfigError for another one."""
    fix = "choose another --run-dir, or delete that folder"
    saved: Json = read_state(newest)["config"]
    different = [
        f"{section}.{key}"
        for section, values in deciding(training).items()
        for key, value in values.items()
        if value != saved.get(section, {}).get(key)
    ]
    if different:
        raise ConfigError(f"{newest.parent} holds a run with other settings ({', '.join(different)})", fix)
    texts = text_parts(config.data)
    for name, folder in folders.items():
        if (folder / MANIFEST).is_file():
            is_training = name in training_parts(config.data)
            side, split = ("corpus", None) if is_training else ("validation_corpus", "validation")
            found = open_text(texts[name], config.data, split).fingerprint
            if read_manifest(folder).inputs.get(side) != found:
                raise ConfigError(f"{newest.parent} holds a run on other text", fix)
    return True


def _find_tokenizer(config: RunConfig, run_dir: Path, say: Say, options: Options) -> Named:
    """Return the folder of the run's tokenizer, or the one that is given; train it if there is none."""
    own, shared = run_dir / "tokenizer", options.shared_tokenizer
    places = [own] if shared is None else [own, shared]
    if config.tokenizer.tokenizer_json in places:  # not a given one, but where it is going to be
        settings = config.tokenizer.model_copy(update={"tokenizer_json": None})
        config = config.model_copy(update={"tokenizer": settings})
    if (given := given_tokenizer(config)) is not None:
        name = given if isinstance(given, Path) else config.tokenizer.vocab
        if options.retrain_tokenizer:
            raise ConfigError(f"--force-retrain-tokenizer, but {name} is given", "leave one of them out")
        say(f"tokenizer  given: {name}")
        return given if shared is None else _copy(given, own)
    if options.retrain_tokenizer:
        for place in places:
            require_replaceable(place, KIND)
            shutil.rmtree(place, ignore_errors=True)
    elif options.skip_tokenizer or shared is not None:
        for found in (place for place in places if (place / "tokenizer.json").is_file()):
            made = read_manifest(found, KIND).config if (found / MANIFEST).is_file() else {}
            wanted = config.tokenizer.model_dump(mode="json").items()
            if other := [f"{k}={made[k]}, not {v}" for k, v in wanted if made.get(k, v) != v]:
                raise ConfigError(f"{found} was trained with {'; '.join(other)}", "give --force-retrain-tokenizer")
            say_stage(say, "tokenizer", found, True, f"{Tokenizer.load(found).vocab_size:,} tokens")
            return _copy(found, own)
        if options.skip_tokenizer:
            where = " or ".join(map(str, places))
            raise ConfigError(f"--skip-tokenizer, but there is none in {where}", "give --tokenizer-json PATH")
    manifest, reused = train_tokenizer(config.data, config.tokenizer, places[-1])
    say_stage(say, "tokenizer", places[-1], reused, f"{manifest.details['vocab_size']:,} tokens")
    return _copy(places[-1], own)


def _copy(source: Named, own: Path) -> Path:
    """Put a tokenizer into the run's folder, unless it is there; return that folder."""
    tokenizer = Tokenizer.load(source) if isinstance(source, Path) else source
    if source == own or ((own / MANIFEST).is_file() and Tokenizer.load(own).sha256 == tokenizer.sha256):
        return own
    with staging(own) as aside:
        if isinstance(source, Path) and (source / MANIFEST).is_file() and read_manifest(source).kind == KIND:
            manifest = read_manifest(source)
            for entry in manifest.files:
                write_durable(aside / entry.name, (source / entry.name).read_bytes())
        else:
            files = tuple(tokenizer.write(aside))
            manifest = Manifest(KIND, VERSION, {"tokenizer": tokenizer.sha256}, {}, files)
        publish(aside, own, manifest)
    return own


def _describe(config: RunConfig, run_dir: Path, tokenizer: Path) -> None:
    """Write what `train` and readers of the seed's run folders want to know."""
    special = json.dumps(list(Tokenizer.load(tokenizer).special_tokens), ensure_ascii=False)
    texts = {"special_tokens.txt": special, "training.yaml": dump_yaml(config), "training.toml": dump_toml(config)}
    run_dir.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        replace_durable(run_dir / name, text.encode())
