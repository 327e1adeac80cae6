"""`--resume DIR`: a run goes on from the folder that is named, a run or one of its checkpoints."""

import pytest
import torch

from candlewick.checkpoint.layout import list_checkpoints, step_folder
from candlewick.checkpoint.safetensors import read_tensors
from candlewick.cli.main import main
from candlewick.errors import MachineError
from candlewick.runs import complete
from candlewick.runs.train import run_training
from candlewick.train.monitor.trackers import read_metrics

EVERY_TWO = {"every_n_steps": 2, "max_keep": 20}


@pytest.fixture
def run_dir(tiny, tmp_path):
    """A run with a checkpoint after every second update."""
    runtime = {**tiny().runtime.model_dump(mode="json"), "checkpoint": EVERY_TWO}
    run_training(tiny(runtime=runtime), tmp_path / "run", resume=False)
    return tmp_path / "run"


def weights(run_dir):
    return read_tensors(list_checkpoints(run_dir / "checkpoints")[-1] / "model.safetensors")


@pytest.mark.parametrize("named", ["checkpoints/step_000000006", "best"])
def test_resume_from_an_earlier_checkpoint_repeats_the_later_updates(run_dir, caplog, named):
    before, rows = weights(run_dir), read_metrics(run_dir / "metrics.jsonl")
    folder = (run_dir / named).resolve()
    later = [other for other in list_checkpoints(run_dir / "checkpoints") if other > folder]
    assert main(["train", "--resume", str(run_dir / named)]) == 0
    after = weights(run_dir)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(len(list(other.parent.glob(f"{other.name}.rejected-*"))) == 1 for other in later)
    again = read_metrics(run_dir / "metrics.jsonl")
    for name in ("step", "train/loss", "eval/loss", "final/loss"):
        assert [row.get(name) for row in rows] == [row.get(name) for row in again]


def test_run_that_goes_back_and_stops_does_not_take_the_later_checkpoints_again(run_dir):
    words = ["train", "--resume", str(step_folder(run_dir / "checkpoints", 6)), "--override"]
    assert main([*words, "scheduler.total_steps=8"]) == 0
    assert list_checkpoints(run_dir / "checkpoints")[-1].name == "step_000000008"


def test_resume_of_a_run_folder_needs_no_run_dir(run_dir):
    assert main(["train", "--resume", str(run_dir), "--override", "scheduler.total_steps=14"]) == 0
    assert list_checkpoints(run_dir / "checkpoints")[-1].name == "step_000000014"


def test_resume_from_a_checkpoint_of_another_run_is_refused(tiny, run_dir, trained, capsys):
    before = sorted(run_dir.rglob("*"))
    other = list_checkpoints(trained / "checkpoints")[-1]
    assert main(["train", "--resume", str(other), "--run-dir", str(run_dir)]) == 2
    assert f"{other} is no checkpoint of the run {run_dir}" in capsys.readouterr().err
    assert main(["train", "--resume", str(run_dir), "--run-dir", str(trained)]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert sorted(run_dir.rglob("*")) == before


def test_branch_that_was_set_aside_is_taken_up_again_under_its_own_name(run_dir):
    before = weights(run_dir)
    checkpoints = run_dir / "checkpoints"
    words = ["train", "--resume", str(step_folder(checkpoints, 6)), "--override", "optimizer.learning_rate=0.001"]
    assert main(words) == 0
    (rejected,) = checkpoints.glob("step_000000012.rejected-*")
    assert not all(torch.equal(before[name], tensor) for name, tensor in weights(run_dir).items())
    assert main(["train", "--resume", str(rejected), "--run-dir", str(run_dir)]) == 0
    after = weights(run_dir)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(list(checkpoints.glob("step_000000012.rejected-*"))) == 2


def test_start_that_ends_before_its_first_update_does_not_forget_to_go_back(run_dir, monkeypatch):
    def fail(*_):
        raise MachineError("no memory", "more memory")

    with monkeypatch.context() as patch:
        patch.setattr(complete, "build", fail)
        assert main(["train", "--resume", str(step_folder(run_dir / "checkpoints", 6))]) == 4
    assert list_checkpoints(run_dir / "checkpoints")[-1].name == "step_000000006"


def test_best_link_names_its_run_wherever_the_checkpoints_lie(tiny, tmp_path):
    runtime = {**tiny().runtime.model_dump(mode="json"), "checkpoint": {"directory": str(tmp_path / "disk" / "a")}}
    run_training(tiny(runtime=runtime), tmp_path / "run", resume=False)
    words = ["--override", "scheduler.total_steps=14"]
    assert main(["train", "--resume", str(tmp_path / "run" / "best"), *words]) == 0
    assert list_checkpoints(tmp_path / "disk" / "a")[-1].name == "step_000000014"
