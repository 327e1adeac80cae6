"""The losses of ten updates equal the recorded ones; the changelog names every deliberate change.

The text is generated, so it is the same everywhere; processors differ in rounding, which ten updates make larger.
When a change is meant, run this test with `-vv`: it shows the losses that belong into tests/golden/losses.json.
"""

import json
from pathlib import Path

import pytest

from candlewick.runs.train import run_training
from candlewick.train.monitor.trackers import read_metrics

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "losses.json"


@pytest.mark.parametrize("algorithm", ["muon", "adam_w"])
def test_losses_equal_the_golden_run(tiny, tmp_path, algorithm):
    config = tiny(
        optimizer={"algorithm": algorithm},
        scheduler={"total_steps": 10, "warmup_steps": 2},
        runtime={**tiny().runtime.model_dump(mode="json"), "precision": "fp32", "sample": None},
    )
    outcome = run_training(config, tmp_path / "run", resume=False)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    found = {
        "train": [round(row["train/loss"], 6) for row in rows if "train/loss" in row],
        "bits_per_byte": round(outcome["metrics"]["final/bits_per_byte"], 6),
    }
    expected = json.loads(GOLDEN.read_bytes())[algorithm]
    assert found["train"] == pytest.approx(expected["train"], rel=2e-3), json.dumps({algorithm: found})
    assert found["bits_per_byte"] == pytest.approx(expected["bits_per_byte"], rel=2e-3), json.dumps(found)
