"""Train a run: decide it, prepare the text that is missing, train it. Only the last of them imports torch."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from candlewick.artifacts.build import hold_folder
from candlewick.artifacts.manifest import require_no_link
from candlewick.checkpoint.layout import remove_leftovers
from candlewick.config import RunConfig
from candlewick.runs.prepare import prepare_run
from candlewick.runs.resolve import Request, resolve
from candlewick.terminal import log_file
from candlewick.train.plan import checkpoint_directories

_REQUESTS: dict[bool | str, Literal["never", "required", "if_available"]] = {
    False: "never",
    True: "required",
    "auto": "if_available",
}


def run_training(config: RunConfig, run_dir: Path, *, resume: bool | Literal["auto"] | Path) -> dict[str, Any]:
    """Train in `run_dir` to the end of the schedule; return steps, tokens, seconds and the last metrics.

    `auto` resumes if there is a checkpoint, and starts otherwise; a path is that of one of the run's checkpoints.
    Raises ConfigError when the folder holds a run and `resume` is false, and any other CandlewickError.
    """
    with hold_run(config, run_dir):
        request = Request(resume=resume if isinstance(resume, Path) else _REQUESTS[resume])
        prepared = prepare_run(resolve(config, run_dir, request))
        from candlewick.runs.complete import train_prepared  # noqa: PLC0415 - what needs no torch does not wait for it

        return train_prepared(prepared)


@contextmanager
def hold_run(config: RunConfig, run_dir: Path) -> Generator[None]:
    """Hold a run's folders and log to its file while the block runs; first clear what a killed save left there.

    Raises CheckpointError for a folder that another process holds.
    """
    with ExitStack() as stack:
        stack.enter_context(hold_folder(run_dir, "wait for it, stop it, or choose another --run-dir"))
        for name in ("log.txt", "metrics.jsonl", "tensorboard"):
            require_no_link(run_dir / name)
        stack.enter_context(log_file(run_dir / "log.txt"))
        directories = {
            folder.resolve() for folder in checkpoint_directories(config, run_dir) if folder is not None
        }
        for directory in sorted(directories - {run_dir.resolve()}):
            fix = "wait for it, stop it, or set runtime.checkpoint.directory and runtime.evaluation.best.directory"
            stack.enter_context(hold_folder(directory, fix))
            require_no_link(directory / "journal.jsonl")
        for directory in {*directories, run_dir.resolve()}:
            remove_leftovers(directory)
        yield
