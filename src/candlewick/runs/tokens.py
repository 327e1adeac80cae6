"""The text of a run as token datasets, each made once and then named in the place of the text.

    data.train_shards    tokens                        data.validation_shards   validation
    data.mixture         tokens_0, tokens_1, ...       data.validation_sets     validation_NAME

All are made with one tokenizer: the given one, else that of a token dataset among the sources, else one that is
trained on all sources together. They lie in the cache folder, under a name made from what they are made of, so
that the next run with the same text finds them. The run's own config names them: it goes on without the text as
long as they are there. Without `validation_shards` each source holds out a part of its own.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from candlewick.artifacts.build import Recipe
from candlewick.artifacts.manifest import Manifest, json_sha256
from candlewick.config import DataConfig, RunConfig, TokenizerConfig
from candlewick.data.rows.batches import BatchPlan
from candlewick.data.tokens.cache import is_cached, touch, trim
from candlewick.data.tokens.dataset import is_token_dataset
from candlewick.data.tokens.prepare import Named, Text, prepare
from candlewick.errors import ConfigError, DataError
from candlewick.hub import SCHEME
from candlewick.parallel.env import detect
from candlewick.runs.tokenizer import make_tokenizer, recipe_of, training_text_of
from candlewick.terminal import bytes_progress
from candlewick.tokenizer.bpe import open_tokenizer
from candlewick.train.budget import planned_steps

logger = logging.getLogger(__name__)

Parts = dict[str, tuple[str, ...]]
"""Sources by the name of what is made of them."""


def with_tokens(config: RunConfig) -> RunConfig:
    """Return the config with token datasets in the place of text, which is prepared in the cache folder.

    Raises what reading the text raises.
    """
    config = with_budget(config)
    data, cache = config.data, config.data.cache_dir
    text = text_parts(data)
    if not text:
        return config
    if cache is None:
        raise ConfigError("there is no folder to keep prepared text in", "set data.cache_dir")
    tokenizer, reused = _tokenizer(config, cache)
    folders: dict[str, Path] = {}
    for name in text:
        recipe = Text.of(_alone(data, name), tokenizer, hold_out=not data.validation_shards).recipe()
        folders[name] = _place(cache, recipe)
        _, was_there = make_tokens(data, name, tokenizer, folders[name])
        logger.info("%s %s: %s", name, "reused" if was_there else "made", folders[name])
        reused &= was_there
        touch(folders[name])
    named = naming_tokens(config, folders)
    if data.cache_max_bytes is not None and not reused:
        datasets = (Path(uris[0]) for uris in parts_of(named.data).values())
        kept = {tokenizer, *tokenizer.parents} if isinstance(tokenizer, Path) else set[Path]()
        trim(cache, data.cache_max_bytes, {*kept, *datasets})
    return named


def with_budget(config: RunConfig) -> RunConfig:
    """Return the config with `data.max_tokens` set to what the schedule reads, if that is left open and known."""
    data, scheduler = config.data, config.scheduler
    is_streamed = any(uri.startswith(SCHEME) for uris in training_parts(data).values() for uri in uris)
    if not is_streamed or data.max_tokens is not None:
        return config
    length = config.sequence_length
    plan = BatchPlan.of(data, length, detect(config.runtime).world_size)
    if scheduler.total_steps is None and scheduler.total_tokens is None:
        if data.max_documents is not None:
            return config
        raise ConfigError(
            "text of the Hub has no end here: neither its size nor a number of steps or tokens is set",
            "set scheduler.total_steps or total_tokens, data.max_tokens, or data.max_documents",
        )
    steps = planned_steps(scheduler, plan, sequence_length=length, epoch_rows=1)
    assert steps is not None, "it has steps or tokens"
    tokens = plan.rows_after(steps) * length
    logger.info("the run reads %d tokens: so many are prepared of text on the Hub", tokens)
    return config.model_copy(update={"data": data.model_copy(update={"max_tokens": tokens})})


def training_parts(data: DataConfig) -> Parts:
    """Name what is trained on, in order."""
    if data.mixture:
        return {f"tokens_{number}": source.shards for number, source in enumerate(data.mixture)}
    return {"tokens": data.train_shards} if data.train_shards else {}


def parts_of(data: DataConfig) -> Parts:
    """Name everything that a run reads."""
    validation = {"validation": data.validation_shards} if data.validation_shards else {}
    sets = {f"validation_{name}": uris for name, uris in data.validation_sets.items()}
    return {**training_parts(data), **validation, **sets}


def text_parts(data: DataConfig) -> Parts:
    """Name what is text and not tokens yet."""
    return {name: uris for name, uris in parts_of(data).items() if token_dataset(uris) is None}


def naming_tokens(config: RunConfig, folders: Mapping[str, Path]) -> RunConfig:
    """Return the config with token datasets, and the tokenizer of the first, in the place of text."""
    data = config.data
    named = {**parts_of(data), **{name: (str(folder),) for name, folder in folders.items()}}
    shards = [named[name] for name in training_parts(data)]
    update = {
        "train_shards": () if data.mixture else named.get("tokens", ()),
        "mixture": tuple(
            source.model_copy(update={"shards": own}) for source, own in zip(data.mixture, shards, strict=False)
        ),
        "validation_shards": named.get("validation", ()),
        "validation_sets": {name: named[f"validation_{name}"] for name in data.validation_sets},
    }
    first = Path(next(iter(named.values()))[0])
    given = {"tokenizer_json": first / "tokenizer", "vocab": None, "merges": None, "special_tokens": None}
    tokenizer = config.tokenizer.model_copy(update=given)
    return config.model_copy(update={"data": data.model_copy(update=update), "tokenizer": tokenizer})


def make_tokens(data: DataConfig, name: str, tokenizer: Named, output: Path) -> tuple[Manifest, bool]:
    """Prepare one part of the text at `output`; whether it was there already."""
    hold_out = not data.validation_shards
    with bytes_progress(name) as progress:
        return prepare(_alone(data, name), tokenizer, output, hold_out=hold_out, progress=progress)


def _alone(data: DataConfig, name: str) -> DataConfig:
    """Return the settings with one part as all there is to read."""
    side = "train_shards" if name in training_parts(data) else "validation_shards"
    nothing = {"train_shards": (), "mixture": (), "validation_shards": (), "validation_sets": {}}
    return data.model_copy(update={**nothing, side: parts_of(data)[name]})


def _place(cache: Path, recipe: Recipe) -> Path:
    return cache / f"{recipe.kind}-{json_sha256([recipe.inputs, recipe.config])[:16]}"


def token_dataset(uris: Sequence[str]) -> Path | None:
    """Return the folder if `uris` names one token dataset, None if it names text.

    Raises ConfigError for both, DataError for a dataset of a cache that is gone.
    """
    paths = [Path(uri) for uri in uris if "://" not in uri]
    if (gone := next((path for path in paths if is_cached(path) and not path.exists()), None)) is not None:
        raise DataError(f"the prepared tokens {gone} are gone from the cache", "give the text, to make them again")
    datasets = [path for path in paths if is_token_dataset(path)]
    if not datasets:
        return None
    if len(uris) > 1:
        raise ConfigError(
            f"{datasets[0]} is a token dataset and cannot stand beside other sources",
            "give it alone, as a source of data.mixture, or give text",
        )
    return datasets[0]


def first_tokenizer(data: DataConfig) -> Path | None:
    """Return the tokenizer of the first token dataset among the sources."""
    datasets = [token_dataset(uris) for uris in training_parts(data).values()]
    return next((folder / "tokenizer" for folder in datasets if folder is not None), None)


def given_tokenizer(config: RunConfig) -> Named | None:
    """Return the tokenizer that a run names, else that of its first token dataset; a folder where it has one."""
    opened = open_tokenizer(config.tokenizer)
    return config.tokenizer.tokenizer_json or opened or first_tokenizer(config.data)


def _tokenizer(config: RunConfig, cache: Path) -> tuple[Named, bool]:
    """Return the tokenizer for the run's text, made in the cache if none is given, and whether it was there."""
    data, settings = config.data, config.tokenizer
    given = given_tokenizer(config)
    if given is not None:
        return given, True
    folder = _place(cache, recipe_of(training_text_of(training_text(data), data, settings), settings))
    _, reused = train_tokenizer(data, settings, folder)
    logger.info("tokenizer %s: %s", "reused" if reused else "made", folder)
    touch(folder)
    return folder, reused


def training_text(data: DataConfig) -> tuple[str, ...]:
    """Return everything that is trained on, as one list of sources."""
    return tuple(dict.fromkeys(uri for uris in training_parts(data).values() for uri in uris))


def train_tokenizer(data: DataConfig, settings: TokenizerConfig, output: Path) -> tuple[Manifest, bool]:
    """Train the tokenizer of the config's text at `output`; whether it was there already."""
    with bytes_progress("tokenizer") as progress:
        return make_tokenizer(training_text(data), data, settings, output, progress=progress)
