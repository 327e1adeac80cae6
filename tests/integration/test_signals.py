"""SIGINT and SIGTERM to a real process: it finishes its step, saves, prints the resume command and exits 5."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.waiting import wait_until

from candlewick.checkpoint.layout import list_checkpoints
from candlewick.cli.main import main
from candlewick.train.monitor.trackers import read_metrics


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_step_saves_and_the_run_resumes(start, tmp_path, number):
    run_dir = tmp_path / "run"
    process = start(run_dir)
    process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 5, err
    (folder,) = list_checkpoints(run_dir / "checkpoints")
    step = int(folder.name.removeprefix("step_"))
    (line,) = (line for line in err.splitlines() if line.startswith("error:"))
    assert f"stopped by {number.name} at step {step}; all of it is saved (fix: go on with --resume)" in line
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
