"""A run from its config: text is tokenized if it has to be, then trained on.

The tokenizer and the tokens of a run that is given text lie in the cache folder, under a name made from what
they are made of, so that the next run with the same text finds them. The run's own config names them, so it goes
on with them whatever becomes of the text.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from candlewick.artifacts import Manifest, json_sha256, replace_durable
from candlewick.checkpoint.layout import checkpoint_directory, list_checkpoints
from candlewick.checkpoint.lock import run_lock
from candlewick.config import DataConfig, RunConfig, TokenizerConfig
from candlewick.config_io import dump_yaml
from candlewick.data.prepare import prepare
from candlewick.data.sources import open_corpus
from candlewick.data.token_shards import TokenDataset, is_token_dataset
from candlewick.errors import ConfigError
from candlewick.generate.engine import sample_text
from candlewick.log import add_file
from candlewick.model.transformer import Transformer
from candlewick.pipeline.tokenizer_stage import make_tokenizer
from candlewick.progress import bytes_progress
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.train.build import Sampler, TrainingData, build

_BATCHING = ("sequence_length", "micro_batch_size", "global_batch_size", "global_batch_tokens")
_NOT_IN_TOKENS = {"cache_dir", "num_workers", *_BATCHING}

logger = logging.getLogger(__name__)


def run_training(config: RunConfig, run_dir: Path, *, resume: bool) -> dict[str, Any]:
    """Train in `run_dir` to the end of the schedule; return steps, tokens, seconds and the last metrics.

    Raises ConfigError when the folder holds a run and `resume` was not asked for, and what training raises.
    """
    if not resume and list_checkpoints(checkpoint_directory(run_dir, config.runtime.checkpoint.directory)):
        raise ConfigError(f"{run_dir} holds a run already", "add --resume to go on, or choose another --run-dir")
    with run_lock(run_dir):
        log_file = add_file(run_dir / "log.txt")
        try:
            config = with_tokens(config)
            data = open_data(config)
            sampler = make_sampler(config, data.tokenizer)
            trainer = build(config, data, run_dir, resume_run=resume, sampler=sampler)
            try:
                # only now: settings that the run cannot go on with must not replace its own
                replace_durable(run_dir / "config.yaml", dump_yaml(config).encode())
                metrics = trainer.run()
            finally:
                trainer.parts.loader.close()
        finally:
            logging.getLogger("candlewick").removeHandler(log_file)
            log_file.close()
    state = trainer.state
    return {
        "steps": state.step,
        "tokens": state.tokens,
        "train_seconds": state.train_seconds,
        "skipped_steps": state.skipped_steps,
        "metrics": metrics,
    }


def make_sampler(config: RunConfig, tokenizer: Tokenizer) -> Sampler | None:
    """Return what writes the config's samples with a model; None: no samples.

    Raises ConfigError for a prompt that the model will not be able to read: now, not at the first evaluation.
    """
    settings, seed, longest = config.runtime.sample, config.runtime.seed, config.model.max_position_embeddings
    if settings is None:
        return None
    for prompt in settings.prompts:
        if (length := 1 + len(tokenizer.encode(prompt))) > longest:
            raise ConfigError(
                f"the prompt {prompt[:40]!r} of runtime.sample has {length} tokens, the model reads {longest}",
                "shorten it, or raise model.max_position_embeddings",
            )

    def sample(model: Transformer) -> list[tuple[str, str]]:
        return [(p, sample_text(model, tokenizer, p, settings, seed=seed)) for p in settings.prompts]

    return sample


def with_tokens(config: RunConfig) -> RunConfig:
    """Return a config that names a token dataset: itself, or with one made of its text in the cache folder."""
    data = config.data
    if not data.train_shards:
        raise ConfigError("there is nothing to train on", "set data.train_shards, for example to [stdlib://]")
    if _token_dataset(data.train_shards) is not None:
        return config
    corpora = [open_corpus(uris, data).fingerprint for uris in (data.train_shards, data.validation_shards) if uris]
    tokenizer_dir = _tokenizer_for(config, corpora[0])
    reading = data.model_dump(mode="json", exclude={"train_shards", "validation_shards", *_NOT_IN_TOKENS})
    key = [corpora, reading, Tokenizer.load(tokenizer_dir).sha256]
    folder = cache_folder(data) / f"tokens-{json_sha256(key)[:16]}"
    _, reused = make_tokens(data, tokenizer_dir, folder)
    logger.info("tokens %s: %s", "reused" if reused else "made", folder)
    return naming_tokens(config, folder)


def naming_tokens(config: RunConfig, folder: Path) -> RunConfig:
    """Return the config with a token dataset, and the tokenizer in it, in the place of text."""
    data = config.data.model_copy(update={"train_shards": (str(folder),), "validation_shards": ()})
    tokenizer = config.tokenizer.model_copy(update={"tokenizer_json": folder / "tokenizer"})
    return config.model_copy(update={"data": data, "tokenizer": tokenizer})


def open_data(config: RunConfig) -> TrainingData:
    """Open the token dataset that the config names, or that `with_tokens` makes of its text."""
    config = with_tokens(config)
    data, given = config.data, config.tokenizer.tokenizer_json
    folder = Path(data.train_shards[0])
    tokenizer = Tokenizer.load(given if given is not None else folder / "tokenizer")
    dataset = TokenDataset.open(folder, tokenizer_sha256=tokenizer.sha256)
    validation = dataset.split("validation")
    # a dataset that stands on both sides has its own validation split
    if data.validation_shards and data.validation_shards != data.train_shards:
        other = _token_dataset(data.validation_shards)
        if other is None:
            raise ConfigError(
                "data.train_shards is a token dataset, data.validation_shards is text",
                "prepare both together with `candlewick data prepare`",
            )
        validation = TokenDataset.open(other, tokenizer_sha256=tokenizer.sha256).split("train")
    return TrainingData(tokenizer, dataset.split("train"), validation, dataset.id)


def cache_folder(data: DataConfig) -> Path:
    """Return the folder where tokenizers and tokens made on the way are kept."""
    if data.cache_dir is None:
        raise ConfigError("there is no folder to keep prepared text in", "set data.cache_dir")
    return data.cache_dir


def make_tokens(data: DataConfig, tokenizer_dir: Path, output: Path) -> tuple[Manifest, bool]:
    """Prepare the token dataset of the config's text at `output`; whether it was there already."""
    with bytes_progress("tokens") as progress:
        return prepare(data, tokenizer_dir, output, progress=progress)


def _token_dataset(uris: Sequence[str]) -> Path | None:
    """Return the folder if `uris` names one token dataset, None if it names text. A mixture is a ConfigError."""
    datasets = [Path(uri) for uri in uris if "://" not in uri and is_token_dataset(Path(uri))]
    if not datasets:
        return None
    if len(uris) > 1:
        raise ConfigError(
            f"{datasets[0]} is a token dataset and cannot stand beside other sources",
            "give it alone, or give text",
        )
    return datasets[0]


def _tokenizer_for(config: RunConfig, corpus: str) -> Path:
    """Return the tokenizer to use for a corpus: the given one, or one made in the cache folder."""
    given = config.tokenizer.tokenizer_json
    if given is not None:
        return given
    data, settings = config.data, config.tokenizer
    key = [corpus, data.documents, data.text_field, data.bad_utf8, settings.model_dump(mode="json")]
    folder = cache_folder(data) / f"tokenizer-{json_sha256(key)[:16]}"
    _, reused = train_tokenizer(data, settings, folder)
    logger.info("tokenizer %s: %s", "reused" if reused else "made", folder)
    return folder


def train_tokenizer(data: DataConfig, settings: TokenizerConfig, output: Path) -> tuple[Manifest, bool]:
    """Train the tokenizer of the config's text at `output`; whether it was there already."""
    with bytes_progress("tokenizer") as progress:
        return make_tokenizer(data.train_shards, data, settings, output, progress=progress)
