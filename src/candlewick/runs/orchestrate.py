"""The whole path in one call: tokenizer, shards, training, evaluation, samples.

    RUN/  tokenizer/  tokens/  ...  checkpoints/  best/  result/  evaluation/  samples/

Each is an artifact of the ids before it, and is made only when its manifest does not match. What comes before
training is in `runs.prepare`, and can be had alone: then another machine goes on with `candlewick train`.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from candlewick.artifacts.build import Recipe, find
from candlewick.artifacts.manifest import read_manifest
from candlewick.checkpoint.layout import checkpoint_directory, list_checkpoints
from candlewick.checkpoint.load import load_for_inference
from candlewick.checkpoint.save import require_room
from candlewick.config import DataConfig, RunConfig
from candlewick.generate.engine import sample_text
from candlewick.parallel.env import find_device
from candlewick.runs.evaluate import evaluate_checkpoint
from candlewick.runs.prepare import Options, Prepared, Say, deciding, prepare_run, say_stage
from candlewick.runs.stages import make
from candlewick.runs.train import make_sampler, open_data, run_training
from candlewick.train.build import forecast

_LEAST_BYTES = 8  # of a checkpoint per parameter: float32 of the weight, and of one moment

Json = dict[str, Any]


def orchestrate(config: RunConfig, run_dir: Path, say: Say, options: Options | None = None) -> Json:
    """Run every stage in `run_dir` that is not up to date; return ids, metrics and samples.

    With `prepare_only` none after the tokens: the result then has what `_foresee` says. `say` receives one line
    per stage. Raises what the stages raise.
    """
    run_dir, options = run_dir.resolve(), options or Options()
    prepared = prepare_run(config, run_dir, say, options)
    config, result = prepared.config, {"run_dir": str(run_dir), "tokens": prepared.tokens}
    if options.prepare_only:
        return result | _foresee(prepared, run_dir, say)
    checkpoint = _train(config, run_dir, prepared.tokens | prepared.parent, prepared.is_started, say)
    device = find_device(config.runtime.device)
    metrics = _evaluate(run_dir, checkpoint, prepared.tokens, device, say)
    return result | {"metrics": metrics, "samples": _sample(config, run_dir, checkpoint, device, say)}


def _foresee(prepared: Prepared, run_dir: Path, say: Say) -> Json:
    """Check what training would check first; return its updates (None: time decides), size and command."""
    data = open_data(prepared.config)
    make_sampler(prepared.config, data.tokenizer)
    steps, parameters = forecast(prepared.config, data)
    require_room(run_dir, _LEAST_BYTES * parameters)
    say(f"ready      {parameters:,} parameters, {'a time budget' if steps is None else f'{steps:,} updates'}")
    resume = ["--resume"] if prepared.is_started else []
    command = ["candlewick", "train", "--config", str(run_dir / "training.yaml"), *resume]
    return {"steps": steps, "parameters": parameters, "command": command}


def _train(config: RunConfig, run_dir: Path, inputs: Mapping[str, str], is_started: bool, say: Say) -> Path:
    """Train unless the run folder holds the finished run of this config and inputs; return its checkpoint."""
    directory = checkpoint_directory(run_dir, config.runtime.checkpoint.directory)
    recipe = Recipe("result", inputs, deciding(config))
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
    say_stage(say, "evaluation", folder, reused, figures)
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
    say_stage(say, "samples", folder, reused, f"{len(samples)} of them")
    return samples
