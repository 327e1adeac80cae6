"""SIGINT and SIGTERM to a real process: it finishes its step, saves, prints the resume command and exits 5."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.waiting import wait_until

from candlewick.checkpoint.layout import list_checkpoints
from candlewick.checkpoint.safetensors import read_tensors
from candlewick.cli.main import main
from candlewick.data.rows import loader
from candlewick.errors import RunInterrupted
from candlewick.runs.train import run_training
from candlewick.train import evaluate
from candlewick.train.guards import STOP_SIGNALS
from candlewick.train.monitor.trackers import read_metrics

pytestmark = pytest.mark.usefixtures("default_signals")


@pytest.fixture
def start(tiny, config_file, tmp_path):
    """Start a long run in a process; return it once it has trained for some steps."""
    runtime = {**tiny().runtime.model_dump(mode="json"), "checkpoint": {"every_n_steps": 1_000_000}}
    runtime["evaluation"]["every_n_steps"] = None
    config = config_file(tiny(scheduler={"total_steps": 1_000_000, "warmup_steps": 2}, runtime=runtime))
    processes = []

    def run(run_dir: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "candlewick", "train", "--config", config, "--run-dir", str(run_dir)]
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        processes.append(process)
        metrics = run_dir / "metrics.jsonl"

        def has_rows() -> bool:
            assert process.poll() is None, process.communicate()[1]
            return metrics.is_file() and metrics.read_bytes().count(b"\n") > 5

        wait_until(has_rows, "the first steps")
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signal_ends_the_step_saves_and_the_run_resumes(start, tmp_path, number):
    run_dir = tmp_path / "run"
    process = start(run_dir)
    process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 5, err
    (folder,) = list_checkpoints(run_dir / "checkpoints")
    step = int(folder.name.removeprefix("step_"))
    (line,) = (line for line in err.splitlines() if line.startswith("stopped"))
    assert f"stopped by {number.name} at step {step}, all saved. To go on: " in line
    assert f"train --resume {run_dir}" in line
    assert read_metrics(run_dir / "metrics.jsonl")[-1]["step"] == step
    more = ["--override", f"scheduler.total_steps={step + 2}"]
    assert main(["train", "--resume", "--run-dir", str(run_dir), *more]) == 0
    steps = [row["step"] for row in read_metrics(run_dir / "metrics.jsonl") if "train/loss" in row]
    assert steps == list(range(1, step + 3))
    assert list_checkpoints(run_dir / "checkpoints")[-1].name == f"step_{step + 2:09d}"


def test_second_signal_ends_the_process_at_once(start, tmp_path):
    process = start(tmp_path / "run")
    # held still, so that it gets both in the same step
    for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 5, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not list(tmp_path.rglob(".tmp-*"))
    assert list_checkpoints(tmp_path / "run" / "checkpoints") == []


@pytest.mark.parametrize("share", [1, 2], ids=["regular", "last"])
def test_signal_during_an_evaluation_stops_inside_it_and_the_resumed_run_equals_an_undisturbed_one(
    tiny, tmp_path, monkeypatch, share
):
    config = tiny(scheduler={"total_steps": 8, "warmup_steps": 2})
    run_training(config, tmp_path / "whole", resume=False)
    calls, batches = [0], loader.validation_batches

    def stop_in_the_middle(*args, **settings):
        calls[0] += 1
        for number, batch in enumerate(batches(*args, **settings)):
            if (calls[0], number) == (share + 1 if share == 2 else 1, 1):  # of step 4, or of all of the split
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(evaluate, "validation_batches", stop_in_the_middle)
    step = 4 if share == 1 else 8
    with pytest.raises(RunInterrupted, match=f"SIGTERM at step {step}, all saved"):
        run_training(config, tmp_path / "run", resume=False)
    monkeypatch.undo()
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[-1].name == f"step_{step:09d}"
    run_training(config, tmp_path / "run", resume=True)
    places = tmp_path / "whole", tmp_path / "run"
    whole, run = (read_metrics(place / "metrics.jsonl") for place in places)
    figures = [[{k: v for k, v in row.items() if k[:5] != "perf/"} for row in rows] for rows in (whole, run)]
    assert figures[0] == figures[1]
    last = [read_tensors(place / "checkpoints" / "step_000000008" / "model.safetensors") for place in places]
    assert all(torch.equal(tensor, last[1][name]) for name, tensor in last[0].items())


@pytest.mark.parametrize("verb", ["train", "orchestrate"])
def test_run_whose_output_nobody_reads_any_more_goes_on_to_its_end(tiny, config_file, tmp_path, verb):
    """As with `2>&1 | head -1`, a dead tee, or a lost connection."""
    runtime = {**tiny().runtime.model_dump(mode="json"), "logging": {"enable_stdout": True}}
    config = config_file(tiny(runtime=runtime, data={**tiny().data.model_dump(mode="json"), "cache_dir": None}))
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "candlewick", verb, "--config", config, "--run-dir", str(tmp_path / "run")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with os.fdopen(writing, "wb") as gone:
        process = subprocess.run(command, stdout=gone, stderr=gone, env=env, timeout=120, check=False)
    assert process.returncode == 0
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[-1].name == "step_000000012"
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 12
    assert verb == "train" or (tmp_path / "run" / "samples" / "samples.json").is_file()
