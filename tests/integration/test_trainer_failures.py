"""The failures that do not end a run: saves, samples, pruning; and those that do."""

import signal

import pytest
import torch
from tests.trainer_stage import Stage

from candlewick.checkpoint.layout import list_checkpoints
from candlewick.config import CheckpointConfig, SchedulerConfig
from candlewick.errors import ArtifactError, CheckpointError, MachineError, RunDiverged
from candlewick.runs.train import run_training
from candlewick.train import saver as saver_module
from candlewick.train.state import TrainState


def failing(monkeypatch, stage, errors):
    """Let the saves of a stage raise these errors, None for a save that succeeds; later ones succeed."""
    errors, save = iter(errors), stage.save

    def fail(directory, snapshot):
        if (error := next(errors, None)) is not None:
            stage.say(f"fail {snapshot.step}")
            raise error
        return save(directory, snapshot)

    monkeypatch.setattr(saver_module, "save", fail)


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "Input/output error"),
        MachineError("no", "x"),
        CheckpointError("no", "x"),
        ArtifactError("no", "x"),
    ],
)
def test_save_that_fails_is_one_warning_and_the_next_save_tries_again(monkeypatch, caplog, error):
    stage = Stage(monkeypatch, losses=[3.0, 2.0, 4.0])
    failing(monkeypatch, stage, [error, error])
    stage.trainer.run()
    saves = [event for event in stage.events if event.startswith(("fail", "save"))]
    assert saves == ["fail 2", "fail 3", "save checkpoints 4", "save checkpoints 6"]
    assert [record.getMessage() for record in caplog.records] == [
        f"step {step} is not saved, the next save tries again: {error}" for step in (2, 3)
    ]
    assert (stage.state.best_steps, stage.state.best_loss) == ((4,), 2.0)  # that of step 2 is not there


def test_best_step_whose_save_failed_is_the_best_one_if_its_last_save_succeeds(monkeypatch):
    stage = Stage(monkeypatch, losses=[3.0, 4.0, 2.0])
    failing(monkeypatch, stage, [None, None, OSError(5, "Input/output error")])
    stage.trainer.run()
    assert stage.events[-4:] == ["sample 6", "fail 6", "save checkpoints 6", "evaluate 6 all"]
    assert (stage.state.best_steps, stage.state.best_loss) == ((6,), 2.0)


@pytest.mark.parametrize("stop", [False, True])
def test_last_save_and_that_on_a_stop_raise(monkeypatch, stop):
    stage = Stage(monkeypatch, evaluation={"best": None})
    failing(monkeypatch, stage, [None, *[OSError(5, "Input/output error")] * 3][stop:])
    stage.stop_at = {"step 2": signal.SIGTERM} if stop else {}
    with pytest.raises(OSError, match="Input/output error"):
        stage.trainer.run()
    assert stage.events[-1] == ("fail 2" if stop else "fail 6")


def test_full_disk_loses_older_checkpoints_before_the_new_one(monkeypatch, caplog):
    stage = Stage(monkeypatch, losses=[3.0, 4.0, 4.0])
    failing(monkeypatch, stage, [None, OSError(28, "No space left on device")])
    stage.trainer.run()
    assert stage.pruned == [(3, (2,)), (1, (2,)), (3, (2,)), (3, (2,))]
    assert stage.events.count("save checkpoints 3") == 1
    assert "older checkpoints are removed to make room" in caplog.text


def test_full_disk_removes_nothing_of_a_run_that_keeps_all(monkeypatch):
    stage = Stage(monkeypatch, checkpoint=CheckpointConfig(every_n_steps=3, max_keep=None))
    failing(monkeypatch, stage, [OSError(28, "No space left on device")])
    stage.trainer.run()
    assert stage.pruned == []


def test_old_checkpoints_that_cannot_be_removed_are_a_warning(monkeypatch, caplog):
    stage = Stage(monkeypatch)

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(saver_module, "prune", refuse)
    stage.trainer.run()
    assert "older checkpoints could not be removed" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_never_saved(monkeypatch, value):
    stage = Stage(monkeypatch)
    stage.weights = {"good": torch.ones(3), "w": torch.tensor([1.0, value])}
    with pytest.raises(RunDiverged, match="w is not finite at step 2, which is not saved"):
        stage.trainer.run()
    assert not [event for event in stage.events if "save" in event]


def test_samples_that_fail_are_a_warning(monkeypatch, caplog):
    stage = Stage(monkeypatch)

    def fail():
        raise torch.OutOfMemoryError("CUDA out of memory")

    stage.trainer.sample = fail
    stage.trainer.run()
    assert "there are no samples of step 2: CUDA out of memory" in caplog.text


def test_run_that_the_disk_cannot_hold_is_refused_before_its_first_update(monkeypatch):
    stage = Stage(monkeypatch)
    asked = list[int]()

    def refuse(_, tensor_bytes, count):
        asked.append(tensor_bytes * count)
        raise MachineError("no room", "free space")

    monkeypatch.setattr(saver_module, "require_room", refuse)
    with pytest.raises(MachineError, match="no room"):
        stage.trainer.run()
    assert (asked, stage.events) == (
        [(3 + 1 + 1) * 8],
        [],
    )  # max_keep, the best, and the one being written; of six


def test_full_disk_before_anything_was_saved_removes_nothing(monkeypatch):
    stage = Stage(monkeypatch, evaluation={"best": None})
    failing(monkeypatch, stage, [OSError(28, "No space left on device")])
    stage.trainer.run()
    assert stage.events.count("fail 3") == 1
    assert stage.pruned == [(3, ())]  # after the last save


def test_full_disk_spares_the_checkpoint_that_the_run_was_resumed_from(tiny, trained_copy, monkeypatch):
    """A later one was rejected: it is not the one to keep."""
    checkpoints = trained_copy / "checkpoints"
    newest = list_checkpoints(checkpoints)[-1]
    (newest / "model.safetensors").write_bytes(b"damaged")
    runtime = {**tiny().runtime.model_dump(mode="json"), "evaluation": {"best": None}}
    runtime["checkpoint"] = {"every_n_steps": 1, "max_keep": 2}
    save, calls = saver_module.save, list[int]()

    def fail_twice(directory, snapshot):
        calls.append(snapshot.step)
        if len(calls) <= 2:
            raise OSError(28, "No space left on device")
        return save(directory, snapshot)

    monkeypatch.setattr(saver_module, "save", fail_twice)
    left = list[list[str]]()
    monkeypatch.setattr(
        saver_module.Saver,
        "link_best",
        lambda _: left.append([p.name for p in list_checkpoints(checkpoints)]),
    )
    run_training(tiny(runtime=runtime), trained_copy, resume=True)
    assert calls[:2] == [11, 11]
    assert "step_000000010" in left[1]


def test_save_that_fails_is_not_the_sound_one(monkeypatch):
    stage = Stage(monkeypatch, checkpoint=CheckpointConfig(every_n_steps=1), evaluation={"best": None})
    failing(monkeypatch, stage, [None, None, OSError(5, "Input/output error")])
    stage.training_losses = {4: 99.0}
    stage.trainer.run()
    assert (3, (2,)) in stage.pruned


def test_update_that_ends_a_diverged_run_has_a_row(monkeypatch):
    stage = Stage(monkeypatch, skipped={1, 2}, evaluation={"best": None})
    with pytest.raises(RunDiverged):
        stage.trainer.run()
    assert [event for event in stage.events if event.startswith("log")] == ["log 1", "log 3"]


def test_short_run_needs_room_for_what_it_writes_alone(monkeypatch):
    asked = list[int]()
    monkeypatch.setattr(saver_module, "require_room", lambda _, size, count: asked.append(count))
    for total, every in ((6, 3), (2, 3)):
        scheduler = SchedulerConfig(total_steps=total, strategy="constant", warmup_steps=1)
        state, checkpoint = TrainState(total_steps=total), CheckpointConfig(every_n_steps=every, max_keep=9)
        Stage(
            monkeypatch, scheduler=scheduler, state=state, checkpoint=checkpoint, evaluation={"best": None}
        ).trainer.run()
    assert asked == [3, 1]
