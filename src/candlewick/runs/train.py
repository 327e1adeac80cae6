"""Train a run: decide it, prepare the text that is missing, train it. Only the last of them imports torch."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from candlewick.artifacts.build import run_lock
from candlewick.checkpoint.layout import remove_leftovers
from candlewick.config import RunConfig
from candlewick.runs.prepare import prepare_run
from candlewick.runs.resolve import Request, resolve
from candlewick.terminal import log_file
from candlewick.train.plan import checkpoint_directories


def run_training(config: RunConfig, run_dir: Path, *, resume: bool) -> dict[str, Any]:
    """Train in `run_dir` to the end of the schedule; return steps, tokens, seconds and the last metrics.

    Raises ConfigError when the folder holds a run and `resume` is false, and any other CandlewickError.
    """
    with hold_run(config, run_dir), log_file(run_dir / "log.txt"):
        plan = resolve(config, run_dir, Request(resume="required" if resume else "never"))
        prepared = prepare_run(plan)
        from candlewick.runs.complete import train_prepared  # noqa: PLC0415 - what needs no torch does not wait for it

        return train_prepared(prepared)


@contextmanager
def hold_run(config: RunConfig, run_dir: Path) -> Generator[None]:
    """Hold the lock of a run folder while the block runs; first clear what a killed save left in it."""
    with run_lock(run_dir):
        for directory in checkpoint_directories(config, run_dir):
            remove_leftovers(directory)
        yield
