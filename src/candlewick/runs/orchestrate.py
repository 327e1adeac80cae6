"""The whole path in one call: tokenizer, shards, training, evaluation, samples.

    RUN/  tokenizer/  tokens/  ...  checkpoints/  best  result/  evaluation/  samples/  report.html

Each folder is an artifact of the ids before it, and is made only when its manifest does not match.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from candlewick.artifacts.build import Recipe, build_json_once, find_built
from candlewick.artifacts.manifest import (
    read_bounded,
    read_manifest,
)
from candlewick.checkpoint.layout import list_checkpoints
from candlewick.checkpoint.load import load_for_inference
from candlewick.checkpoint.save import require_room
from candlewick.config import DataConfig, RunConfig
from candlewick.generate.engine import sample_text
from candlewick.parallel.device import configure_torch, find_device
from candlewick.runs.complete import (
    complete_plan,
    make_sampler,
    open_training_data,
    sample_prompts,
    train_prepared,
)
from candlewick.runs.evaluate import evaluate_checkpoint
from candlewick.runs.prepare import PreparedRun, describe_run, notify_stage, prepare_run
from candlewick.runs.report.page import write_report_of_run
from candlewick.runs.resolve import Request, resolve
from candlewick.runs.sharding import Notify
from candlewick.runs.start import result_settings
from candlewick.runs.train import hold_run
from candlewick.terminal import shown_path
from candlewick.train.plan import Resume, checkpoint_directories


def orchestrate(
    config: RunConfig, run_dir: Path, notify: Notify, request: Request | None = None
) -> dict[str, Any]:
    """Run every stage in `run_dir` that is not up to date; return ids, metrics and samples.

    With `prepare_only` none after the tokens. `notify` receives one line per stage. Raises any CandlewickError.
    """
    run_dir = run_dir.resolve()
    with hold_run(config, run_dir):
        request = request or Request(resume="if_available", keeps_data=True)
        prepared = prepare_run(resolve(config, run_dir, request), notify)
        describe_run(prepared)
        tokens = {name: dataset.id for name, dataset in prepared.datasets.items()}
        result = {"run_dir": str(run_dir), "tokens": tokens}
        if request.prepare_only:
            return result | _preview(prepared, notify)
        checkpoint = _train(prepared, tokens, notify)
        configure_torch(config.runtime, find_device(config.runtime.device))  # also if nothing was left to train
        metrics = _evaluate(prepared, checkpoint, tokens, notify)
        samples = _sample(prepared, checkpoint, notify)
        if (report := write_report_of_run(run_dir)) is not None:
            notify(f"report     written: {shown_path(report)}")
        return result | {"metrics": metrics, "samples": samples}


def _preview(prepared: PreparedRun, notify: Notify) -> dict[str, Any]:
    """Check what training would check first; return its updates (None: time decides), size and command."""
    plan = complete_plan(prepared)
    make_sampler(plan.config, plan.tokenizer, sample_prompts(plan.config, plan.tokenizer, plan.data.validation))
    steps, parameters = plan.state.total_steps, plan.num_parameters
    require_room(plan.run_dir, 8 * parameters)  # at least: float32 of the weight, and of one moment
    notify(f"ready      {parameters:,} parameters, {'a time budget' if steps is None else f'{steps:,} updates'}")
    resume = ["--resume"] if isinstance(plan.start, Resume) else []
    command = ["candlewick", "train", "--config", str(plan.run_dir / "training.yaml"), *resume]
    return {"steps": steps, "parameters": parameters, "command": command}


def _train(prepared: PreparedRun, tokens: Mapping[str, str], notify: Notify) -> Path:
    """Train unless the run folder holds the finished run of this config and inputs; return its checkpoint."""
    config, run_dir, parent = prepared.config, prepared.run_dir, prepared.start.parent
    directory, _ = checkpoint_directories(config, run_dir)
    inputs = {**tokens, **({} if parent is None else {"parent": parent})}
    recipe = Recipe("result", inputs, result_settings(config))
    folder = run_dir / "result"
    if find_built(folder, recipe) is not None:
        checkpoint = directory / json.loads(read_bounded(folder / "result.json"))["checkpoint"]
        if checkpoint.is_dir():
            notify(f"training   reused, up to date: {shown_path(checkpoint)}")
            return checkpoint
    outcome = train_prepared(prepared)
    newest = list_checkpoints(directory)[-1]
    result, _ = build_json_once(folder / "result.json", recipe, lambda: {**outcome, "checkpoint": newest.name})
    notify(f"training   made: {shown_path(newest)} ({result['steps']:,} steps, {result['tokens']:,} tokens)")
    return newest


def _evaluate(
    prepared: PreparedRun, checkpoint: Path, tokens: Mapping[str, str], notify: Notify
) -> dict[str, Any]:
    """Evaluate the saved checkpoint, read back from the disk, on all that was held out."""
    recipe = Recipe("evaluation", {"checkpoint": read_manifest(checkpoint).id, **tokens}, {})
    folder = prepared.run_dir / "evaluation"
    evaluate = partial(evaluate_checkpoint, checkpoint, DataConfig(), device=prepared.config.runtime.device)
    metrics, reused = build_json_once(folder / "metrics.json", recipe, evaluate)
    figures = f"{metrics['eval/bits_per_byte']:.3f} bits per byte, perplexity {metrics['eval/perplexity']:.2f}"
    notify_stage(notify, "evaluation", folder, reused, figures)
    return metrics


def _sample(prepared: PreparedRun, checkpoint: Path, notify: Notify) -> list[dict[str, Any]]:
    """Let the saved checkpoint continue the prompts of the config; return each with its text."""
    runtime, folder = prepared.config.runtime, prepared.run_dir / "samples"
    settings = runtime.sample
    if settings is None:
        return []
    validation = open_training_data(prepared).validation
    prompts = sample_prompts(prepared.config, prepared.tokenizer, validation)
    parameters = {**settings.model_dump(mode="json"), "seed": runtime.seed, "prompts": list(prompts)}
    recipe = Recipe("samples", {"checkpoint": read_manifest(checkpoint).id}, parameters)

    def generate() -> list[dict[str, Any]]:
        model, tokenizer = load_for_inference(checkpoint, find_device(runtime.device))
        sample = partial(sample_text, model, tokenizer, config=settings, seed=runtime.seed)
        return [{"prompt": prompt, "text": sample(prompt)} for prompt in prompts]

    samples, reused = build_json_once(folder / "samples.json", recipe, generate)
    notify_stage(notify, "samples", folder, reused, f"{len(samples)} of them")
    return samples
