"""Updates with a non-finite loss or gradient are skipped and counted, and too many end the run."""

import math

import torch

from candlewick.checkpoint.layout import list_checkpoints, step_folder
from candlewick.checkpoint.safetensors import read_tensors
from candlewick.cli.main import main
from candlewick.runs.train import run_training
from candlewick.train.monitor.trackers import read_metrics
from candlewick.train.objective import NextTokenLoss


def poison(monkeypatch, steps) -> None:
    """Make the loss of these updates, counted from 1, not a number, and so its gradients."""
    forward, calls = NextTokenLoss.forward, 0

    def poisoned(self, *args):
        nonlocal calls
        calls += 1
        loss = forward(self, *args)
        return loss * math.nan if calls in steps else loss

    monkeypatch.setattr(NextTokenLoss, "forward", poisoned)


def saved(run_dir, step) -> dict[str, torch.Tensor]:
    folder = step_folder(run_dir / "checkpoints", step)
    return read_tensors(folder / "model.safetensors") | read_tensors(folder / "training/optimizer.safetensors")


def test_non_finite_update_is_skipped_and_counted(tiny, tmp_path, monkeypatch):
    poison(monkeypatch, {4, 8, 9})
    checkpoint = {"every_n_steps": 1, "max_keep": 20}
    config = tiny(runtime={**tiny().runtime.model_dump(mode="json"), "checkpoint": checkpoint})
    result = run_training(config, tmp_path, resume=False)
    assert result["skipped_steps"] == 3
    for step in range(2, 13):
        before, after = saved(tmp_path, step - 1), saved(tmp_path, step)
        same = [torch.equal(before[name], after[name]) for name in before]
        assert all(same) if step in (4, 8, 9) else not any(same[:10])
        assert all(tensor.isfinite().all() for tensor in after.values())
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "train/loss" in row]
    assert [row["step"] for row in rows if row["train/loss"] is None] == [4, 8, 9]
    # counted one row late, so that the host does not wait for the device
    assert [row["train/skipped_steps"] for row in rows] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 3, 3, 3]
    assert result["tokens"] == 12 * 4 * 32


def test_too_many_non_finite_updates_exit_6_and_keep_the_checkpoints(
    tiny, config_file, tmp_path, monkeypatch, capsys
):
    poison(monkeypatch, range(7, 100))
    config = tiny(runtime={**tiny().runtime.model_dump(mode="json"), "max_nonfinite_steps": 3})
    assert main(["train", "--config", config_file(config), "--run-dir", str(tmp_path / "run")]) == 6
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error:"))
    assert "3 updates in a row" in line
    assert "(fix: " in line
    # those of step 4 and 8 had the lowest validation loss when they were evaluated
    folders = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert [folder.name for folder in folders] == [f"step_{step:09}" for step in (4, 5, 8)]
    monkeypatch.undo()
    assert main(["train", "--resume", "--run-dir", str(tmp_path / "run")]) == 0
