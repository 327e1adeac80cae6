"""The whole path in one call: tokenizer, shards, training, evaluation, samples.

    RUN/  tokenizer/  tokens/  training.yaml  training.toml  checkpoints/  best/  result/  evaluation/  samples/

Each is an artifact of the ids before it, and is made only when its manifest does not match. Several sources lie
side by side under the names that `pipeline.tokens` gives them. `training.yaml` and
`training.toml` hold the resolved config with absolute paths: `candlewick train --config` accepts either, from
any working directory.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from candlewick.artifacts import MANIFEST, read_manifest, replace_durable
from candlewick.checkpoint.layout import checkpoint_directory, list_checkpoints, newest_valid
from candlewick.checkpoint.load import load_for_inference, read_state
from candlewick.config import DataConfig, RunConfig
from candlewick.config_io import dump_toml, dump_yaml
from candlewick.data.recipe import Recipe, find
from candlewick.data.source_files import open_text
from candlewick.errors import ConfigError
from candlewick.generate.engine import sample_text
from candlewick.parallel.env import find_device
from candlewick.pipeline.evaluation import evaluate_checkpoint
from candlewick.pipeline.stages import make
from candlewick.pipeline.start import begin
from candlewick.pipeline.tokens import (
    given_tokenizer,
    make_tokens,
    naming_tokens,
    parts_of,
    text_parts,
    train_tokenizer,
    training_parts,
    with_budget,
)
from candlewick.pipeline.training import run_training

Json = dict[str, Any]
Say = Callable[[str], None]


def orchestrate(config: RunConfig, run_dir: Path, say: Say) -> Json:
    """Run every stage in `run_dir` that is not up to date; return ids, metrics and samples.

    `say` receives one line per stage. Raises what the stages raise.
    """
    if not training_parts(config.data):
        raise ConfigError("there is no text to train on", "give --input PATH, or set data.train_shards")
    run_dir = run_dir.resolve()
    directory = checkpoint_directory(run_dir, config.runtime.checkpoint.directory)
    config = with_budget(config)
    config, parent = begin(config, newest_valid(directory) if list_checkpoints(directory) else None)
    folders = {name: run_dir / name for name in text_parts(config.data)}
    training = naming_tokens(config, folders) if folders else config
    # before anything that the run needs is replaced
    is_started = _is_started(config, training, folders, directory)
    if folders:
        _tokenize(config, run_dir, folders, say)
    for name, text in (("training.yaml", dump_yaml(training)), ("training.toml", dump_toml(training))):
        replace_durable(run_dir / name, text.encode())

    tokens = {name: read_manifest(Path(uris[0])).id for name, uris in parts_of(training.data).items()}
    checkpoint = _train(training, run_dir, tokens | parent, is_started, say)
    device = find_device(config.runtime.device)
    metrics = _evaluate(run_dir, checkpoint, tokens, device, say)
    samples = _sample(config, run_dir, checkpoint, device, say)
    return {"run_dir": str(run_dir), "tokens": tokens, "metrics": metrics, "samples": samples}


def _say_stage(say: Say, name: str, folder: Path, reused: bool, what: str) -> None:
    say(f"{name:<10} {'reused, up to date' if reused else 'made'}: {folder} ({what})")


def _tokenize(config: RunConfig, run_dir: Path, folders: Mapping[str, Path], say: Say) -> None:
    """Make the tokenizer unless one is given, and the tokens of all text."""
    tokenizer = given_tokenizer(config)
    if tokenizer is not None:
        shown = tokenizer if isinstance(tokenizer, Path) else config.tokenizer.vocab
        say(f"tokenizer  given: {shown}")
    else:
        tokenizer = run_dir / "tokenizer"
        manifest, reused = train_tokenizer(config.data, config.tokenizer, tokenizer)
        _say_stage(say, "tokenizer", tokenizer, reused, f"{manifest.details['vocab_size']:,} tokens")
    for name, folder in folders.items():
        manifest, reused = make_tokens(config.data, name, tokenizer, folder)
        counts = {split: counted["tokens"] for split, counted in manifest.details["splits"].items()}
        _say_stage(
            say, name, folder, reused, f"{counts['train']:,} to train on, {counts['validation']:,} held out"
        )


def _train(config: RunConfig, run_dir: Path, inputs: Mapping[str, str], is_started: bool, say: Say) -> Path:
    """Train unless the run folder holds the finished run of this config and inputs; return its checkpoint."""
    directory = checkpoint_directory(run_dir, config.runtime.checkpoint.directory)
    recipe = Recipe("result", inputs, _deciding(config))
    folder = run_dir / "result"
    if find(folder, recipe) is not None:
        checkpoint = directory / json.loads((folder / "result.json").read_bytes())["checkpoint"]
        if checkpoint.is_dir():
            say(f"training   reused, up to date: {checkpoint}")
            return checkpoint
    outcome = run_training(config, run_dir, resume=is_started)
    newest = list_checkpoints(directory)[-1]
    result, _ = make(folder / "result.json", recipe, lambda: {**outcome, "checkpoint": newest.name})
    say(f"training   made: {newest} ({result['steps']:,} steps, {result['tokens']:,} tokens)")
    return newest


def _deciding(config: RunConfig) -> Json:
    """The settings that decide what comes out: not where things are shown or how many workers help."""
    return config.model_dump(
        mode="json",
        exclude={
            "data": {"cache_dir", "cache_max_bytes", "num_workers"},
            "runtime": {"logging", "log_every_n_steps"},
        },
    )


def _is_started(config: RunConfig, training: RunConfig, folders: Mapping[str, Path], directory: Path) -> bool:
    """Whether the folder holds a run of this config and text to go on with.

    Raises ConfigError if it holds another's.
    """
    if not list_checkpoints(directory):
        return False
    fix = "choose another --run-dir, or delete that folder"
    saved: Json = read_state(newest_valid(directory))["config"]
    different = [
        f"{section}.{key}"
        for section, values in _deciding(training).items()
        for key, value in values.items()
        if value != saved.get(section, {}).get(key)
    ]
    if different:
        raise ConfigError(f"{directory} holds a run with other settings ({', '.join(different)})", fix)
    texts = text_parts(config.data)
    for name, folder in folders.items():
        if (folder / MANIFEST).is_file():
            side = "corpus" if name in training_parts(config.data) else "validation_corpus"
            found = open_text(texts[name], config.data).fingerprint
            if read_manifest(folder).inputs.get(side) != found:
                raise ConfigError(f"{directory} holds a run on other text", fix)
    return True


def _evaluate(run_dir: Path, checkpoint: Path, tokens: Mapping[str, str], device: torch.device, say: Say) -> Json:
    """Evaluate the saved checkpoint, read back from the disk, on all that was held out."""
    recipe = Recipe("evaluation", {"checkpoint": read_manifest(checkpoint).id, **tokens}, {})
    folder = run_dir / "evaluation"
    metrics, reused = make(
        folder / "metrics.json",
        recipe,
        lambda: evaluate_checkpoint(checkpoint, DataConfig(), device=device, max_batches=None),
    )
    figures = f"{metrics['eval/bits_per_byte']:.3f} bits per byte, perplexity {metrics['eval/perplexity']:.2f}"
    _say_stage(say, "evaluation", folder, reused, figures)
    return metrics


def _sample(config: RunConfig, run_dir: Path, checkpoint: Path, device: torch.device, say: Say) -> list[Json]:
    """Write sample text with the saved checkpoint."""
    settings = config.runtime.sample
    if settings is None:
        return []
    recipe = Recipe(
        "samples",
        {"checkpoint": read_manifest(checkpoint).id},
        {**settings.model_dump(mode="json"), "seed": config.runtime.seed},
    )

    def write() -> list[Json]:
        model, tokenizer = load_for_inference(checkpoint, device)
        sample = partial(sample_text, model, tokenizer, config=settings, seed=config.runtime.seed)
        return [{"prompt": prompt, "text": sample(prompt)} for prompt in settings.prompts]

    folder = run_dir / "samples"
    samples, reused = make(folder / "samples.json", recipe, write)
    _say_stage(say, "samples", folder, reused, f"{len(samples)} of them")
    return samples
