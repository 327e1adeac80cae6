"""The demo: from text to a model that writes, in a given time. Torch is not imported before the text is ready.

A new run measures the speed of this machine first: where a model could make too few updates in its time, a smaller
one is trained. A run that ended goes on, if it is given more time, from the checkpoint before its learning rate
fell.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from candlewick.checkpoint.layout import list_checkpoints, step_folder
from candlewick.checkpoint.open import Checkpoint
from candlewick.config import RunConfig, SchedulerConfig
from candlewick.config.plain_settings import SIZES, plain_overrides
from candlewick.errors import ConfigError
from candlewick.runs.prepare import PreparedRun, describe_run, prepare_run
from candlewick.runs.resolve import Request, resolve
from candlewick.runs.train import hold_run
from candlewick.train.monitor.trackers import read_metrics
from candlewick.train.plan import Resume, checkpoint_directories, embedding_rows

_UNITS = ("steps", "tokens", "epochs", "seconds")
_FEWEST_UPDATES = 500  # of a run; with fewer a smaller model writes better
_MEASURED_UPDATES = 6


@dataclass(frozen=True, slots=True)
class Stage:
    """What a run could do at one of its evaluations."""

    step: int
    seconds: float  # of training
    bits_per_byte: float
    text: str | None  # a sample with its prompt


def run_demo(
    config: RunConfig, run_dir: Path, tell: Callable[[str], None], *, is_size_given: bool = False
) -> dict[str, Any]:
    """Train in `run_dir`, or go on there; return steps, seconds, bits per byte and the stages of the run.

    `tell` receives a line for each decision and each stage. Raises ConfigError for a run that was trained longer
    before, and any other CandlewickError.
    """
    with hold_run(config, run_dir):
        config, resume, about = _find_start(config, run_dir, is_size_given=is_size_given)
        tell(about)
        if resume is not None:
            plan = resolve(config, run_dir, Request(resume=resume, keeps_data=True))
            prepared = prepare_run(plan, tell)
            if not isinstance(prepared.start, Resume) and not is_size_given:
                prepared = fit_to_machine(prepared, tell)
            describe_run(prepared)
            from candlewick.runs.complete import train_prepared  # noqa: PLC0415 - it needs torch

            train_prepared(prepared)
    stages = read_stages(run_dir)
    last = stages[-1] if stages else None
    return {
        "run_dir": str(run_dir),
        "steps": last and last.step,
        "train_seconds": last and last.seconds,
        "bits_per_byte": last and last.bits_per_byte,
        "stages": stages,
    }


def _find_start(
    config: RunConfig, run_dir: Path, *, is_size_given: bool
) -> tuple[RunConfig, Literal["if_available"] | Path | None, str]:
    """Return the config, what to go on from (None: nothing is left to do), and a line that says so."""
    directory, _ = checkpoint_directories(config, run_dir)
    if not list_checkpoints(directory):
        return config, "if_available", f"new run in {run_dir}"
    newest = Checkpoint.newest(directory, need={"weights", "optimizer"})
    assert newest.config is not None, "a checkpoint of a run has one"
    if not is_size_given:  # which the speed of the machine may have decided
        config = config.replaced(model=newest.config.model)
    counters = newest.state["counters"]
    step, (unit, wanted), (old_unit, had) = counters["step"], _end(config.scheduler), _end(newest.config.scheduler)
    if step != counters["total_steps"]:
        return config, "if_available", f"going on in {run_dir} after step {step:,}"
    if (unit, wanted) == (old_unit, had):
        return config, None, f"{run_dir} is finished: {step:,} steps; --{unit} {2 * wanted:g} trains it longer"
    if unit == old_unit and wanted < had:
        problem = f"{run_dir} was trained for {had:g} {unit} already"
        raise ConfigError(problem, f"give a larger --{unit}, or another --run-dir")
    before = counters.get("before_decay")
    if before is not None and (folder := step_folder(directory, before)).is_dir():
        return config, folder, f"going on in {run_dir} from step {before:,}, before its learning rate fell"
    return config, "if_available", f"going on in {run_dir} after step {step:,}"


def _end(scheduler: SchedulerConfig) -> tuple[str, float]:
    """Return the unit and the value of what ends a run."""
    ends = {unit: getattr(scheduler, f"total_{unit}") for unit in _UNITS}
    return next((unit, value) for unit, value in ends.items() if value is not None)


def fit_to_machine(prepared: PreparedRun, tell: Callable[[str], None]) -> PreparedRun:
    """Return a new run with a time budget with the largest model up to its own that can learn something in it."""
    seconds = prepared.config.scheduler.total_seconds
    if seconds is None:
        return prepared
    smaller = [size for size in SIZES.values() if size["hidden"] < prepared.config.model.hidden_size]
    config = prepared.config
    smaller = [size for size in SIZES.values() if size["hidden"] < config.model.hidden_size]
    for size in reversed(smaller):
        updates = seconds / _seconds_per_update(config, embedding_rows(config.model, prepared.tokenizer))
        if updates >= _FEWEST_UPDATES:
            break
        changes = dict(override.split("=") for override in plain_overrides(size, config))
        config = config.replaced(model={key.removeprefix("model."): int(n) for key, n in changes.items()})
        tell(
            f"this machine would make some {updates:,.0f} updates in {seconds:g} s, so the model is smaller: "
            f"{config.model.num_layers} layers of {config.model.hidden_size}"
        )
    return replace(prepared, config=config)


def _seconds_per_update(config: RunConfig, vocab_size: int) -> float:
    """Make a few updates of a model of this size on random tokens, and return how long the fastest one takes."""
    import torch  # noqa: PLC0415 - the text is prepared without it

    from candlewick.data.rows.loader import Batch, GlobalBatch  # noqa: PLC0415
    from candlewick.model.transformer import Transformer  # noqa: PLC0415
    from candlewick.optim.build import build_optimizer  # noqa: PLC0415
    from candlewick.parallel.device import configure_torch, find_device  # noqa: PLC0415
    from candlewick.train.objective import NextTokenLoss  # noqa: PLC0415
    from candlewick.train.step import train_step  # noqa: PLC0415

    device = find_device(config.runtime.device)
    configure_torch(config.runtime, device)
    with device:
        model = Transformer(config.model, vocab_size)
        tokens = torch.randint(
            vocab_size, (config.data.micro_batch_size, config.sequence_length), dtype=torch.int32
        )
    objective, optimizer = NextTokenLoss(model, num_tokens=vocab_size), build_optimizer(model, config.optimizer)
    passes = max(1, (config.data.global_batch_size or 0) // config.data.micro_batch_size)
    batch = GlobalBatch((Batch(tokens, tokens),) * passes, passes * tokens.numel())
    times: list[float] = []
    for _ in range(_MEASURED_UPDATES):
        began = time.perf_counter()
        train_step(objective, optimizer, batch, None).loss.item()
        times.append(time.perf_counter() - began)
    return min(times)


def read_stages(run_dir: Path) -> list[Stage]:
    """Return the evaluations of a run in order; of a step that was evaluated twice the figure of all its text."""
    stages: dict[int, Stage] = {}
    seconds = 0.0
    for row in read_metrics(run_dir / "metrics.jsonl"):
        step, seconds = row["step"], row.get("perf/training_seconds") or seconds
        bits = row.get("final/bits_per_byte") or row.get("eval/bits_per_byte")
        if bits is not None:
            text = stages[step].text if step in stages else None
            stages[step] = Stage(step, seconds, bits, text)
        elif "sample/0" in row and step in stages:
            stages[step] = replace(stages[step], text=row["sample/0"])
    return list(stages.values())
