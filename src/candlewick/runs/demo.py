"""The demo: from text to a model that writes, in a given time. Torch is not imported before the text is ready.

A new run measures the speed of this machine first: where a model could make too few updates in its time, a smaller
one is trained. A run that ended goes on, if it is given more time, from the checkpoint before its learning rate
fell.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from candlewick.checkpoint.layout import list_checkpoints, step_folder
from candlewick.checkpoint.open import Checkpoint
from candlewick.config import RunConfig, SchedulerConfig
from candlewick.config.plain_settings import SIZES, plain_overrides
from candlewick.data.text.stories.source import STORIES
from candlewick.data.tokens.workers import count_cores
from candlewick.errors import ConfigError
from candlewick.runs.prepare import PreparedRun, describe_run, prepare_run
from candlewick.runs.report.page import write_report_of_run
from candlewick.runs.report.stages import read_stages
from candlewick.runs.resolve import Request, resolve
from candlewick.runs.sources import all_sources
from candlewick.runs.train import hold_run
from candlewick.terminal import shown_path, shown_source
from candlewick.train.plan import Resume, checkpoint_directories, embedding_rows, num_parameters

_UNITS = ("steps", "tokens", "epochs", "seconds")
_USED = 0.5  # of its time: a run that ended before that had no more text
_FEWEST_UPDATES = 500  # of a run; with fewer a smaller model writes better


def introduce(config: RunConfig, run_dir: Path) -> str:
    """Return what is going to happen: with which text, how large a model, for how long, and where."""
    size = num_parameters(config.model, config.tokenizer.vocab_size)
    units = {"seconds": "seconds of training", "steps": "updates", "tokens": "tokens", "epochs": "passes"}
    unit, value = _end(config.scheduler)
    model = f"{size / 1e6:.1f} million parameters, {value:,g} {units[unit]}, on {count_cores()} cores"
    return f"text   {', '.join(map(shown_source, config.data.train_shards))}\nmodel  {model}\nrun    {run_dir}"


def run_demo(
    config: RunConfig, run_dir: Path, tell: Callable[[str], None], *, is_size_given: bool = False
) -> dict[str, Any]:
    """Train in `run_dir`, or go on there; return steps, seconds, bits per byte and the stages of the run.

    `tell` receives a line for each decision and each stage. Raises ConfigError for a run that was trained longer
    before, and any other CandlewickError.
    """
    run_dir, floor = run_dir.resolve(), None
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
            floor = _floor(prepared)
        report = write_report_of_run(run_dir)
    stages = read_stages(run_dir)
    last = stages[-1] if stages else None
    return {
        "run_dir": str(run_dir),
        "steps": last and last.step,
        "train_seconds": last and last.seconds,
        "bits_per_byte": last and last.bits_per_byte,
        "floor": floor,
        "stages": stages,
        "report": report and str(report),
    }


def _floor(prepared: PreparedRun) -> float | None:
    """Return the least bits per byte that any model can reach on the held-out text, if it is of stories://."""
    from candlewick.runs.complete import open_training_data  # noqa: PLC0415 - they need torch
    from candlewick.runs.evaluate import story_floor  # noqa: PLC0415

    sources = (uri for uris in all_sources(prepared.config.data).values() for uri in uris)
    is_known = all(uri.startswith(STORIES) for uri in sources)
    return story_floor(open_training_data(prepared).validation, prepared.tokenizer) if is_known else None


def _find_start(
    config: RunConfig, run_dir: Path, *, is_size_given: bool
) -> tuple[RunConfig, Literal["if_available"] | Path | None, str]:
    """Return the config, what to go on from (None: nothing is left to do), and a line that says so."""
    directory, _ = checkpoint_directories(config, run_dir)
    if not list_checkpoints(directory):
        return config, "if_available", f"new run in {shown_path(run_dir)}"
    newest = Checkpoint.newest(directory, need={"weights", "optimizer"})
    assert newest.config is not None, "a checkpoint of a run has one"
    if not is_size_given:  # which the speed of the machine may have decided
        config = config.replaced(model=newest.config.model)
    counters = newest.state["counters"]
    where = shown_path(run_dir)
    step, (unit, wanted), (old_unit, had) = counters["step"], _end(config.scheduler), _end(newest.config.scheduler)
    if step != counters["total_steps"]:
        return config, "if_available", f"going on in {where} after step {step:,}"
    if (unit, wanted) == (old_unit, had):
        return config, None, f"{where} is finished: {step:,} steps; --{unit} {2 * wanted:g} trains it longer"
    if unit == old_unit and wanted < had:
        problem = f"{where} was trained for {had:g} {unit} already"
        raise ConfigError(problem, f"give a larger --{unit}, or another --run-dir")
    limit, is_same = config.data.max_repetitions, config.data.max_repetitions == newest.config.data.max_repetitions
    if is_same and limit is not None and old_unit == "seconds" and counters["train_seconds"] < _USED * had:
        about = f"its text was read {limit:g} times (data.max_repetitions); give it more text"
        return config, None, f"{where} is finished: {about}"
    before = counters.get("before_decay")
    if before is not None and (folder := step_folder(directory, before)).is_dir():
        return config, folder, f"going on in {where} from step {before:,}, before its learning rate fell"
    return config, "if_available", f"going on in {where} after step {step:,}"


def _end(scheduler: SchedulerConfig) -> tuple[str, float]:
    """Return the unit and the value of what ends a run."""
    ends = {unit: getattr(scheduler, f"total_{unit}") for unit in _UNITS}
    return next((unit, value) for unit, value in ends.items() if value is not None)


def fit_to_machine(prepared: PreparedRun, tell: Callable[[str], None]) -> PreparedRun:
    """Return a new run with a time budget with the largest model up to its own that can learn something in it."""
    from candlewick.train.speed import seconds_per_update  # noqa: PLC0415 - it needs torch

    seconds = prepared.config.scheduler.total_seconds
    if seconds is None:
        return prepared
    smaller = [size for size in SIZES.values() if size["hidden"] < prepared.config.model.hidden_size]
    config = prepared.config
    smaller = [size for size in SIZES.values() if size["hidden"] < config.model.hidden_size]
    for size in reversed(smaller):
        updates = seconds / seconds_per_update(config, embedding_rows(config.model, prepared.tokenizer))
        if updates >= _FEWEST_UPDATES:
            break
        changes = dict(override.split("=") for override in plain_overrides(size, config))
        config = config.replaced(model={key.removeprefix("model."): int(n) for key, n in changes.items()})
        tell(
            f"this machine would make some {updates:,.0f} updates in {seconds:g} s, so the model is smaller: "
            f"{config.model.num_layers} layers of {config.model.hidden_size}"
        )
    return replace(prepared, config=config)
