"""What `make gpu` runs on a CUDA device, on the CPU and tiny: every step and case runs, and nothing is timed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    """Run the script; return its last lines and the JSON of the training benchmark."""
    output = tmp_path_factory.mktemp("gpu")
    words = ["--dry-run", "--seconds", "900", "--output", output]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu.py", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (training,) = output.glob("training-*.json")
    return done.stdout, json.loads(training.read_text())


def test_dry_run_finishes_every_step(dry_run):
    printed, _ = dry_run
    assert printed.splitlines()[-3:] == ["tests: done", "training: done", "attention: done"]


def test_training_benchmark_reaches_every_case_without_an_error(dry_run):
    _, training = dry_run
    assert not training["not_reached"]
    assert [case for case in training["cases"] if "error" in case] == []
    factors = {name for case in training["cases"] for name in case["case"]}
    assert factors == {
        *("layers", "micro_batch", "attention", "is_compiled", "loss_rows", "recompute", "gathers", "peer"),
        "optimizer",
    }


def test_factors_that_change_no_mathematics_change_no_loss(dry_run):
    _, training = dry_run
    baseline, *others = [case for case in training["cases"] if not {"optimizer", "peer"} & case["case"].keys()]
    assert len(others) > 10
    for case in others:
        assert case["loss"] == pytest.approx(baseline["loss"], rel=2e-3), case["case"]  # 8 bits of mantissa


def test_operators_of_an_update_are_listed_by_their_time(dry_run):
    _, training = dry_run
    times = [operator["milliseconds"] for operator in training["cases"][0]["operators"]]
    assert times == sorted(times, reverse=True)
    assert times[0] > 0
