"""Tiny runs for the campaigns over training: text, settings, a start in a process of its own, and how it ended.

Processes are forked from one that has loaded everything, so that a start takes no second.
"""

import json
import logging
import multiprocessing
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo  # the first random weights of a process load it
import torch.utils.tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.records.runs import BASE, write_corpus

from candlewick.checkpoint.layout import list_checkpoints, verify_checkpoint
from candlewick.checkpoint.open import Checkpoint
from candlewick.cli import train as _train  # noqa: F401  # the verb is loaded when it is called
from candlewick.cli.main import main
from candlewick.runs import complete as _complete  # noqa: F401  # it too
from candlewick.train.monitor import telemetry
from candlewick.train.monitor.trackers import read_metrics

STEPS = 8
SETTINGS = BASE | {
    "model.hidden_size": 16,
    "model.num_layers": 1,
    "data.global_batch_size": 4,
    "optimizer.learning_rate": 0.003,
    "scheduler.total_steps": STEPS,
    "scheduler.warmup_steps": 2,
    "runtime.checkpoint.every_n_steps": 3,
    "runtime.checkpoint.max_keep": 2,
    "runtime.evaluation.every_n_steps": 4,
    "runtime.evaluation.max_tokens": 64,
    "runtime.sample": {"max_new_tokens": 2},
}
"""What a tiny run has unless a campaign says otherwise; a name with its section, and its value."""

Disturbance = Callable[[Path], AbstractContextManager[None]]
"""Makes the block in which a command runs, of the folder that it writes to."""

logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells what it hides of an earlier start

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.faults.training"])


@dataclass(frozen=True)
class Corpus:
    """The folder of the text that the runs of a campaign share, and of what is prepared of it."""

    folder: Path

    @classmethod
    def write(cls, folder: Path) -> "Corpus":
        """Write the text below an empty folder."""
        text = folder / "text"
        text.mkdir(parents=True)
        write_corpus(text)
        (folder / "run.yaml").write_text("runtime: {device: cpu}\n")  # its other settings are words of the command
        return cls(folder)

    def words(self, settings: dict[str, Any], run_dir: Path) -> list[str]:
        """Return the command that trains a tiny run with settings; in text TEXT stands for the corpus, RUN for
        the folder of the run.
        """
        plain = {"data.train_shards": ["TEXT/plain"], "data.cache_dir": str(self.folder / "cache")}
        if "data.mixture" in settings:
            del plain["data.train_shards"]
        words = ["train", "--config", str(self.folder / "run.yaml"), "--run-dir", str(run_dir)]
        for name, value in (plain | SETTINGS | settings).items():
            told = json.dumps(value).replace("TEXT", str(self.folder / "text")).replace("RUN", str(run_dir))
            words += ["--override", f"{name}={told}"]
        return words


def start(words: list[str], folder: Path, disturb: Disturbance | None = None, seconds: float | None = None) -> int:
    """Run a command in a process of its own, and return its exit code; its output is added to `folder`/output.

    After so many `seconds` the process is killed, wherever it is.
    """
    process = launch(words, folder, disturb)
    if seconds is not None:
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
    return end(process)


def launch(words: list[str], folder: Path, disturb: Disturbance | None = None) -> ForkServerProcess:
    """Begin what `start` does, and return the process."""
    process = context.Process(target=_run, args=(words, folder, disturb))
    process.start()
    return process


def end(process: ForkServerProcess) -> int:
    """Wait for a process, and return its exit code."""
    process.join(120)
    code = process.exitcode
    assert code is not None, "it hangs"
    process.close()
    return code


def _run(words: list[str], folder: Path, disturb: Disturbance | None) -> None:
    output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    pytest.MonkeyPatch().setattr(telemetry, "_MEASURE_SECONDS", 0.0)
    with nullcontext() if disturb is None else disturb(folder):
        code = main(words)
    os._exit(code)


def ending(run_dir: Path, checkpoints: Path | None = None, best: Path | None = None) -> dict[str, Any]:
    """Return all that a run left, but for times and the folder's name: equal runs have equal ones, bit by bit."""
    folder = list_checkpoints(checkpoints or run_dir / "checkpoints")[-1]
    checkpoint = Checkpoint.open(folder, need={"weights", "optimizer"})
    assert checkpoint.manifest is not None
    state = json.loads(json.dumps(dict(checkpoint.state)).replace(str(run_dir), "RUN"))
    del state["counters"]["train_seconds"]
    rows = [
        {name: value for name, value in row.items() if not name.startswith("perf/")}
        for row in read_metrics(run_dir / "metrics.jsonl")
    ]
    found: dict[str, Any] = {"checkpoint": folder.name, "state": state, "rows": rows}
    for name in ("model.safetensors", "training/optimizer.safetensors", "config.json", "tokenizer.json"):
        found[name] = (folder / name).read_bytes()
    found["inputs"] = dict(checkpoint.manifest.inputs)
    links = [best / name.name for name in sorted(best.iterdir())] if best is not None else [run_dir / "best"]
    found["links"] = {link.name: link.resolve().name for link in links if link.is_symlink()}
    found["tensorboard"] = tensorboard(run_dir / "tensorboard")
    return found


def tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard shows of a run, by name; of speeds and texts only the steps.

    Of evaluations and texts each is there once: a finished run that is resumed evaluates again, and TensorBoard
    hides no text of an earlier start.
    """
    if not folder.is_dir():
        return {}
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    found = dict[str, list[tuple[int, float]]]()
    for name in events.Tags()["scalars"]:
        shown = [(event.step, 0.0 if name.startswith("perf/") else event.value) for event in events.Scalars(name)]
        found[name] = list(dict.fromkeys(shown)) if name.startswith("eval/") else shown
    for name in events.Tags()["tensors"]:
        found[name] = sorted({(event.step, 0.0) for event in events.Tensors(name)})
    return found


def whole_checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoints of a folder, each verified. Raises CheckpointError for one that is not whole."""
    folders = list_checkpoints(directory)
    for folder in folders:
        verify_checkpoint(folder)
    return folders


def unfinished(folder: Path) -> list[str]:
    """Return the names below a folder that only a save or a build in the middle of its work has."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    return sorted(name for name in names if re.search(r"(^|/)\.|\.(tmp|partial)$", name))


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return in what two endings differ."""
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
