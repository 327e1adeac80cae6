"""Which checkpoints are written, best, sound and kept, and what becomes of a run whose folder is gone."""

import shutil
from pathlib import Path

import pytest
from tests.trainer_stage import Stage

from candlewick.checkpoint.layout import list_checkpoints
from candlewick.checkpoint.safetensors import read_tensors
from candlewick.cli.main import main
from candlewick.config import BestConfig, CheckpointConfig
from candlewick.data.rows.loader import Loader
from candlewick.errors import DataError, MachineError
from candlewick.runs.train import run_training
from candlewick.train import saver as saver_module
from candlewick.train.reporter import Reporter
from candlewick.train.state import TrainState


def test_checkpoints_and_best_ones_are_kept_as_many_as_each_is_set_to(monkeypatch):
    stage = Stage(monkeypatch, losses=[3.0, 2.0, 1.0], evaluation={"best": BestConfig(max_keep=2)})
    stage.trainer.run()
    assert stage.pruned == [(3, (2,)), (3, (2,)), (3, (2, 4)), (3, (4, 6))]
    every = Stage(monkeypatch, losses=[3.0, 2.0, 1.0], evaluation={"best": BestConfig(max_keep=None)})
    every.trainer.run()
    assert every.state.best_steps == (2, 4, 6)


def test_best_checkpoint_is_saved_again_if_it_was_saved_before_its_evaluation(monkeypatch):
    """After a stop, or by an interval of checkpoints alone: the saved state must name it as the best."""
    stage = Stage(monkeypatch, state=TrainState(step=4, total_steps=6, evaluated_step=2))
    stage.trainer.run()
    assert stage.trainer.saver.saved_step == 6
    assert stage.events.count("save checkpoints 4") == 1


@pytest.mark.parametrize("failing", [0, 3])
def test_failure_of_a_link_is_one_warning_and_it_is_tried_at_the_next_save_and_at_the_end(
    monkeypatch, caplog, failing
):
    stage = Stage(monkeypatch)
    tries = iter([OSError(28, "No space left on device") if number == failing else None for number in range(5)])

    def link(*_, **__):
        if (error := next(tries)) is not None:
            raise error

    monkeypatch.setattr(saver_module, "link_best", link)
    stage.trainer.run()
    assert [record.getMessage() for record in caplog.records] == [
        "the best checkpoint could not be linked as best: [Errno 28] No space left on device"
    ]
    assert next(tries, "none left") == "none left"


def test_last_checkpoint_with_a_loss_below_guessing_outlives_spoilt_ones(monkeypatch, caplog):
    checkpoint = CheckpointConfig(every_n_steps=1, max_keep=1)
    stage = Stage(monkeypatch, checkpoint=checkpoint, evaluation={"best": None})
    stage.training_losses = {3: 4.7, 4: float("inf"), 5: 99.0}  # ln 100 = 4.61
    stage.trainer.run()
    assert stage.pruned == [(1, ()), (1, ()), (1, (2,)), (1, (2,)), (1, (2,)), (1, ())]
    assert stage.state.sound_step == 6
    warnings = [record.getMessage() for record in caplog.records if "spoilt" in record.getMessage()]
    assert len(warnings) == 3
    assert "step 3 has a training loss of 4.70, that of guessing is 4.61" in warnings[0]
    assert "--resume checkpoints/step_000000002" in warnings[0]


def after_step(monkeypatch, step, act):
    """Call `act` once, when the checkpoint of an update was reported."""
    report, has_acted = Reporter.checkpoint, list[int]()

    def checkpoint(self, state, folder):
        report(self, state, folder)
        if state.step == step and not has_acted:
            has_acted.append(step)
            act()

    monkeypatch.setattr(Reporter, "checkpoint", checkpoint)


@pytest.mark.parametrize("fate", ["removed", "renamed", "replaced"])
def test_run_whose_folder_is_gone_saves_once_and_says_so(tiny, tmp_path, monkeypatch, fate):
    run_dir = tmp_path / "run"

    def act():
        shutil.rmtree(run_dir) if fate == "removed" else run_dir.rename(tmp_path / "elsewhere")
        if fate == "replaced":
            run_dir.mkdir()

    config = tiny()
    run_training(config, tmp_path / "whole", resume=False)
    with monkeypatch.context() as patch:
        after_step(patch, 5, act)
        with pytest.raises(
            MachineError, match=rf"{run_dir} was removed or renamed .*; step 6 is saved in a new one"
        ):
            run_training(config, run_dir, resume=False)
    assert [folder.name for folder in list_checkpoints(run_dir / "checkpoints")] == ["step_000000006"]
    assert main(["train", "--resume", str(run_dir)]) == 0
    found, expected = (
        read_tensors(list_checkpoints(folder / "checkpoints")[-1] / "model.safetensors")
        for folder in (run_dir, tmp_path / "whole")
    )
    assert all(found[name].equal(expected[name]) for name in expected)


def test_run_folder_that_is_named_by_a_relative_path_is_found(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_training(tiny(), Path("run"), resume=False)["steps"] == 12


@pytest.mark.parametrize("step", [5, 11])
def test_run_whose_folder_is_gone_and_whose_checkpoints_lie_elsewhere_goes_on(tiny, tmp_path, monkeypatch, step):
    """At step 11 there is one update left, and no other row of metrics before its end."""
    run_dir, runtime = tmp_path / "run", tiny().runtime.model_dump(mode="json")
    runtime |= {"checkpoint": {"directory": str(tmp_path / "disk"), "every_n_steps": 1}, "log_every_n_steps": 5}
    runtime["evaluation"] = {"best": None}
    with monkeypatch.context() as patch:
        after_step(patch, step, lambda: run_dir.rename(tmp_path / "elsewhere"))
        with pytest.raises(MachineError, match=r"run was removed or renamed"):
            run_training(tiny(runtime=runtime), run_dir, resume=False)
    assert main(["train", "--resume", str(run_dir), "--override", "scheduler.total_steps=13"]) == 0
    assert list_checkpoints(tmp_path / "disk")[-1].name == "step_000000013"


def test_run_that_can_read_no_first_batch_leaves_no_checkpoint(tiny, tmp_path, monkeypatch):
    def fail(_):
        raise DataError("gone", "bring it back")

    monkeypatch.setattr(Loader, "next", fail)
    with pytest.raises(DataError, match="gone"):
        run_training(tiny(), tmp_path / "run", resume=False)
    assert list_checkpoints(tmp_path / "run" / "checkpoints") == []


def test_save_of_a_run_whose_folder_is_gone_is_not_claimed_if_it_fails(monkeypatch):
    stage = Stage(monkeypatch, evaluation={"best": None})
    monkeypatch.setattr(stage.trainer.saver, "has_lost_folder", lambda: stage.state.step == 3)

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(saver_module, "save", fail)
    with pytest.raises(OSError, match="Input/output error"):
        stage.trainer.run()


def test_each_checkpoint_is_described_once_it_is_whole_and_a_failed_save_is_not(monkeypatch):
    stage, described = Stage(monkeypatch), []
    stage.trainer.saver._describe = described.append
    stage.trainer.run()
    saved = [event for event in stage.events if event.startswith("save ")]
    assert len(described) == len(saved) > 1
    assert described[-1] == stage.trainer.saver.newest
