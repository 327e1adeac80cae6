"""A run from its config: text becomes token datasets if it has to, then it is trained on."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from candlewick.artifacts.lock import run_lock
from candlewick.artifacts.manifest import json_sha256, replace_durable
from candlewick.checkpoint.layout import checkpoint_directory, list_checkpoints, newest_valid, sweep
from candlewick.config import RunConfig
from candlewick.config.tree import dump_yaml
from candlewick.data.tokens.cache import touch
from candlewick.data.tokens.dataset import TokenDataset, TokenSplit
from candlewick.errors import ConfigError
from candlewick.generate.engine import sample_text
from candlewick.model.transformer import Transformer
from candlewick.runs.start import begin
from candlewick.runs.tokens import parts_of, text_parts, training_parts, with_tokens
from candlewick.terminal import add_file
from candlewick.tokenizer.bpe import Tokenizer, open_tokenizer
from candlewick.train.build import Sampler, TrainingData, build


def run_training(config: RunConfig, run_dir: Path, *, resume: bool) -> dict[str, Any]:
    """Train in `run_dir` to the end of the schedule; return steps, tokens, seconds and the last metrics.

    Raises ConfigError when the folder holds a run and `resume` was not asked for, and what training raises.
    """
    checkpoints = checkpoint_directory(run_dir, config.runtime.checkpoint.directory)
    if not resume and list_checkpoints(checkpoints):
        raise ConfigError(f"{run_dir} holds a run already", "add --resume to go on, or choose another --run-dir")
    with run_lock(run_dir):
        log_file = add_file(run_dir / "log.txt")
        try:
            sweep(checkpoints)
            config, parent = begin(config, newest_valid(checkpoints) if resume else None)
            config = with_tokens(config)
            data = replace(open_data(config), parent=parent)
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


def open_data(config: RunConfig) -> TrainingData:
    """Open the token datasets that the config names, or that `with_tokens` makes of its text.

    The main validation is `validation_shards`, else what the first source held out; of a mixture what each source
    held out is a set as well: `mixture_0`, `mixture_1` and so on.
    """
    if not training_parts(config.data):
        raise ConfigError("there is nothing to train on", "set data.train_shards, for example to [stdlib://]")
    if text_parts(config.data):
        config = with_tokens(config)
    tokenizer, datasets = _open_all(config)
    sources = [datasets[name] for name in training_parts(config.data)]
    sets = {name: _validation(datasets[f"validation_{name}"], sources) for name in config.data.validation_sets}
    if config.data.mixture and "validation" not in datasets:
        own = {f"mixture_{number}": source.split("validation") for number, source in enumerate(sources)}
        if taken := sorted(own.keys() & sets.keys()):
            raise ConfigError(
                f"data.validation_sets has {taken[0]!r}, the name of what a source of the mixture holds out",
                "give the set another name",
            )
        sets |= own
    main = datasets.get("validation")
    ids = [source.id for source in sources]
    return TrainingData(
        tokenizer=tokenizer,
        train=tuple(source.split("train") for source in sources),
        validation=sources[0].split("validation") if main is None else _validation(main, sources),
        validation_sets=sets,
        dataset_id=json_sha256(ids) if config.data.mixture else ids[0],
    )


def open_validation(config: RunConfig) -> TokenSplit:
    """Open `data.validation_shards` alone, made into tokens if it is text."""
    _, datasets = _open_all(with_tokens(config) if text_parts(config.data) else config)
    return _validation(datasets["validation"], [datasets[name] for name in training_parts(config.data)])


def _open_all(config: RunConfig) -> tuple[Tokenizer, Mapping[str, TokenDataset]]:
    folders = {name: Path(uris[0]) for name, uris in parts_of(config.data).items()}
    first = next(iter(folders.values()))
    tokenizer = open_tokenizer(config.tokenizer) or Tokenizer.load(first / "tokenizer")
    for folder in folders.values():
        touch(folder)
    opened = {
        folder: TokenDataset.open(folder, tokenizer_sha256=tokenizer.sha256) for folder in set(folders.values())
    }
    return tokenizer, {name: opened[folder] for name, folder in folders.items()}


def _validation(dataset: TokenDataset, sources: list[TokenDataset]) -> TokenSplit:
    """Return what a dataset held out if it is trained on, or is no more than that; else what it would train on."""
    is_source = any(dataset.id == source.id for source in sources)
    has_other = dataset.manifest.details["splits"]["train"]["tokens"]
    return dataset.split("train" if has_other and not is_source else "validation")
