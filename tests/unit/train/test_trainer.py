"""The order of events in the training loop, with stand-ins for everything around it."""

import json
import logging
import signal
from collections.abc import Mapping

import pytest
import torch
from tests.prepared import build_trainer
from tests.trainer_stage import Stage

from candlewick.checkpoint.save import full_weights
from candlewick.config import (
    LoggingConfig,
    SchedulerConfig,
)
from candlewick.errors import MachineError, RunDiverged, RunInterrupted
from candlewick.train import saver as saver_module
from candlewick.train import trainer as trainer_module
from candlewick.train.guards import STOP_SIGNALS
from candlewick.train.loss_scale import LossScale
from candlewick.train.state import TrainState

pytestmark = pytest.mark.usefixtures("default_signals")


def test_trainer_runs_events_in_order(monkeypatch):
    stage = Stage(monkeypatch, losses=[3.0, 3.5, 2.0, 2.1])
    assert stage.trainer.run() == {"final/loss": 2.1, "final/tokens": 100}
    assert stage.events == [
        *("step 1", "log 1", "step 2", "evaluate 2", "sample 2", "save checkpoints 2"),
        *("step 3", "save checkpoints 3"),
        *("step 4", "log 4", "evaluate 4", "sample 4"),
        *("step 5", "step 6", "log 6", "evaluate 6", "sample 6", "save checkpoints 6", "evaluate 6 all"),
    ]
    # the time of every save is charged to saving
    assert stage.reported == ["checkpoints 2", "checkpoints 3", "checkpoints 6"]
    assert stage.linked == [(), (2,), (2,), (6,), (6,)]  # at the start, after each save, and at the end
    assert stage.multipliers == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert stage.rates == [0.01, 0.02, 0.02]
    assert (stage.state.tokens, stage.state.best_loss) == (600, 2.0)
    assert stage.state.train_seconds > 0


def test_trainer_with_intervals_off_evaluates_and_saves_at_the_end(monkeypatch):
    stage = Stage(monkeypatch, evaluation={"every_n_steps": None, "best": None}, sampling=False)
    stage.trainer.run()
    assert [event for event in stage.events if "step" not in event and "log" not in event] == [
        "save checkpoints 3",
        "evaluate 6",
        "save checkpoints 6",
        "evaluate 6 all",
    ]


def test_trainer_evaluates_the_end_once_without_max_tokens(monkeypatch):
    stage = Stage(monkeypatch, losses=[3.0, 2.0, 1.0], evaluation={"max_tokens": None})
    assert stage.trainer.run() == {"final/loss": 1.0, "final/tokens": 100}
    assert stage.events.count("evaluate 6 all") == 1
    resumed = Stage(
        monkeypatch,
        evaluation={"max_tokens": None},
        state=TrainState(step=6, total_steps=6, evaluated_step=6),
    )
    resumed.trainer.run()
    assert resumed.events == ["evaluate 6 all"]


def test_trainer_turns_out_of_memory_in_a_step_into_a_machine_error(monkeypatch):
    stage = Stage(monkeypatch)

    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...\nmore")

    monkeypatch.setattr(trainer_module, "train_step", out_of_memory)
    with pytest.raises(MachineError, match="Tried to allocate 20.00 GiB.*micro_batch_size"):
        stage.trainer.run()


def test_trainer_samples_once_at_the_end(monkeypatch):
    stage = Stage(monkeypatch, evaluation={"every_n_steps": 4})
    stage.trainer.run()
    assert [event for event in stage.events if "sample" in event] == ["sample 4", "sample 6"]


@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.parametrize("at", ["step 4", "log 4", "evaluate 4", "sample 4"])
def test_trainer_finishes_the_step_saves_and_stops_on_a_signal(monkeypatch, number, at):
    stage = Stage(monkeypatch)
    stage.stop_at = {at: number}
    with pytest.raises(RunInterrupted, match=rf"stopped by {number.name} at step 4, all saved .*--resume"):
        stage.trainer.run()
    assert stage.events[-1] == "save checkpoints 4"
    assert "step 5" not in stage.events


def test_trainer_saves_once_on_a_signal_during_a_save(monkeypatch):
    stage = Stage(monkeypatch)
    stage.stop_at = {"save checkpoints 3": signal.SIGINT}
    with pytest.raises(RunInterrupted, match="at step 3"):
        stage.trainer.run()
    assert stage.events.count("save checkpoints 3") == 1


def test_signal_in_the_last_step_saves_and_leaves_the_last_evaluation_to_a_resume(monkeypatch):
    stage = Stage(monkeypatch)
    stage.stop_at = {"step 6": signal.SIGINT}
    with pytest.raises(RunInterrupted, match="at step 6, all saved"):
        stage.trainer.run()
    assert stage.events[-3:] == ["step 6", "log 6", "save checkpoints 6"]


def test_signal_that_the_process_ignores_does_not_stop_a_run(monkeypatch):
    """As nohup ignores SIGHUP."""
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stage = Stage(monkeypatch)
        stage.stop_at = {"step 2": signal.SIGHUP}
        stage.trainer.run()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)
    assert stage.state.step == 6


def test_trainer_stops_at_once_on_a_second_signal(monkeypatch):
    stage = Stage(monkeypatch)
    stage.stop_at = {"step 4": signal.SIGINT, "log 4": signal.SIGTERM}
    with pytest.raises(KeyboardInterrupt):
        stage.trainer.run()
    assert stage.events[-1] == "log 4"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_trainer_never_saves_a_nan_loss_as_best(monkeypatch):
    stage = Stage(monkeypatch, losses=[float("nan"), 3.0, float("inf"), 9.0])
    stage.trainer.run()
    assert (stage.state.best_steps, stage.state.best_loss) == ((4,), 3.0)
    assert [event for event in stage.events if "save" in event] == [f"save checkpoints {n}" for n in (3, 4, 6)]


def test_trainer_counts_skipped_updates_before_a_save(monkeypatch):
    stage = Stage(monkeypatch, skipped=[3, 6])
    counted = []
    monkeypatch.setattr(
        saver_module, "save", lambda directory, snapshot: counted.append(stage.state.skipped_steps)
    )
    stage.trainer.run()
    assert counted == [0, 1, 2]  # the best at step 2, checkpoints at 3 and 6
    assert stage.state.consecutive_nonfinite_steps == 1


def test_trainer_ends_without_a_save_after_too_many_skipped_updates(monkeypatch):
    stage = Stage(monkeypatch, skipped=[4, 5])
    with pytest.raises(RunDiverged, match="2 updates in a row"):
        stage.trainer.run()
    assert [event for event in stage.events if "save" in event] == ["save checkpoints 2", "save checkpoints 3"]


def test_trainer_continues_from_its_state(monkeypatch):
    state = TrainState(step=3, tokens=300, total_steps=6, best_loss=0.5)
    stage = Stage(monkeypatch, state=state)
    stage.trainer.run()
    assert stage.events[0] == "step 4"
    assert "save checkpoints 6" in stage.events
    assert state.best_steps == ()
    assert state.tokens == 600


def test_trainer_of_a_finished_run_evaluates_but_does_not_save(monkeypatch):
    stage = Stage(monkeypatch, state=TrainState(step=6, total_steps=6, evaluated_step=6))
    stage.trainer.run()
    assert stage.events == ["evaluate 6 all"]


def test_trainer_makes_up_for_an_evaluation_missed_by_a_stop(monkeypatch):
    stage = Stage(monkeypatch, state=TrainState(step=4, total_steps=6, evaluated_step=2))
    stage.trainer.run()
    assert stage.events[:4] == ["evaluate 4", "sample 4", "save checkpoints 4", "step 5"]


def test_trainer_saves_the_last_weights_as_best(monkeypatch):
    stage = Stage(monkeypatch, losses=[2.0, 1.0], evaluation={"every_n_steps": None})
    stage.trainer.run()
    assert (stage.state.best_steps, stage.linked[-1]) == ((6,), (6,))


def test_trainer_converts_a_time_budget_into_steps_once(monkeypatch):
    seconds = iter(range(1000))
    monkeypatch.setattr(trainer_module.time, "monotonic", lambda: next(seconds))
    scheduler = SchedulerConfig(total_seconds=20.0, strategy="constant")
    stage = Stage(monkeypatch, state=TrainState(), scheduler=scheduler, evaluation={"every_n_steps": None})
    stage.trainer.run()  # a step takes a second by this clock
    assert stage.state.total_steps == stage.state.step == 20


def test_trainer_ends_at_max_repetitions_before_the_time_budget(monkeypatch, caplog):
    seconds = iter(range(1000))
    monkeypatch.setattr(trainer_module.time, "monotonic", lambda: next(seconds))
    scheduler = SchedulerConfig(total_seconds=50.0, strategy="constant")
    stage = Stage(
        monkeypatch, state=TrainState(), scheduler=scheduler, evaluation={"every_n_steps": None}, max_steps=8
    )
    with caplog.at_level(logging.WARNING):
        stage.trainer.run()
    assert stage.state.step == stage.state.total_steps == 8
    assert caplog.text.count("ends after 8 updates, before its time: data.max_repetitions") == 1


def test_trainer_records_statistics_when_due(monkeypatch):
    stage = Stage(
        monkeypatch, logging=LoggingConfig(statistics_every_n_steps=3), evaluation={"every_n_steps": None}
    )
    stage.trainer.run()
    assert stage.events[:6] == ["step 1", "log 1", "step 2", "watch the model", "step 3", "statistics 3 figures"]
    assert [event for event in stage.events if "statistics" in event] == [
        "statistics 3 figures",
        "statistics 6 figures",
    ]


def test_trainer_saves_the_loss_scale_in_the_counters(monkeypatch):
    scale = LossScale(TrainState(), torch.device("cpu"))
    stage = Stage(monkeypatch, loss_scale=scale)
    scale.update(torch.tensor(1.0))
    scale.update(torch.tensor(0.0))
    stage.trainer.run()
    assert (stage.state.loss_scale, stage.state.loss_scale_clean_steps) == (2.0**14, 1)


@pytest.fixture
def built(tiny, tmp_path):
    """The objects of a run that writes its weights' sum as a sample."""
    trainer = build_trainer(tiny(), tmp_path, sampler=lambda model: [("", str(model.lm_head.weight.sum().item()))])
    yield trainer
    trainer.loader.close()
    with trainer.reporter.running(trainer.state):
        pass


def test_snapshot_holds_the_present_weights_and_state(built):
    built.state.step = 3
    snapshot = built.snapshot()
    weights = full_weights(built.objective.model)
    assert snapshot.weights.keys() == weights.keys()
    assert all(torch.equal(snapshot.weights[name], tensor) for name, tensor in weights.items())
    assert (snapshot.step, snapshot.state["counters"]["step"]) == (3, 3)
    assert snapshot.inputs == {
        "tokens": built.plan.data.train[0].dataset_id,
        "tokenizer": built.plan.tokenizer.sha256,
    }
    json.dumps(snapshot.state, allow_nan=False)


def test_evaluate_and_sample_keep_the_training_mode(built):
    loss = built.evaluate(1)["eval/loss"]
    (prompt, text), *rest = built.sample()
    assert (prompt, rest) == ("", [])
    assert float(text) == pytest.approx(built.objective.model.lm_head.weight.sum().item())
    assert built.objective.training
    assert built.evaluate(1)["eval/loss"] == loss


@pytest.mark.parametrize(("max_tokens", "computed"), [(5, 4), (100, 3), (None, 3)])
def test_final_figures_are_those_of_the_whole_split_computed_once(monkeypatch, max_tokens, computed):
    stage = Stage(monkeypatch, evaluation={"max_tokens": max_tokens})
    told = list[tuple[int, str, float]]()

    def log(step: int, row: Mapping[str, float]) -> None:
        told.extend((step, name, figure) for name, figure in row.items() if name.endswith("tokens"))

    stage.trainer.reporter.log = log
    stage.trainer.reporter.evaluation = lambda state, metrics: log(state.step, metrics)
    stage.trainer.run()
    part = max_tokens or 100
    assert told == [*((step, "eval/tokens", part) for step in (2, 4, 6)), (6, "final/tokens", 100)]
    assert len([event for event in stage.events if event.startswith("evaluate")]) == computed


def test_run_without_evaluation_at_the_end_has_none(monkeypatch):
    off = {"every_n_steps": None, "at_end": False}
    for evaluation, steps in ((off, []), ({**off, "every_n_steps": 4}, ["evaluate 4"])):
        stage = Stage(monkeypatch, evaluation=evaluation)
        metrics = stage.trainer.run()
        assert [event for event in stage.events if event.startswith("evaluate")] == steps
        assert metrics == ({"eval/loss": 1.0, "eval/tokens": 5} if steps else {})
        assert stage.events[-1] == "save checkpoints 6"


def test_training_time_ends_before_an_evaluation_and_a_save_begin(monkeypatch):
    stage = Stage(monkeypatch, sampling=False)
    stage.trainer.reporter.end_training_interval = lambda: stage.say("trained")
    stage.trainer.run()
    assert stage.events[3:7] == ["trained", "evaluate 2", "trained", "save checkpoints 2"]
    assert stage.events[7:10] == ["step 3", "trained", "save checkpoints 3"]


def test_events_by_epochs_come_with_the_update_that_completes_one(monkeypatch):
    stage = Stage(
        monkeypatch, evaluation={"every_n_steps": None, "every_n_epochs": 1, "best": None}, sampling=False
    )
    stage.num_rows = 25  # 10 rows an update: 2.5 updates an epoch
    stage.trainer.run()
    assert [event for event in stage.events if "evaluate" in event] == [
        "evaluate 3",
        "evaluate 5",
        "evaluate 6",
        "evaluate 6 all",
    ]


def test_a_time_budget_alone_ends_a_run_without_a_warning(monkeypatch, caplog):
    seconds = iter(range(1000))
    monkeypatch.setattr(trainer_module.time, "monotonic", lambda: next(seconds))
    scheduler = SchedulerConfig(total_seconds=20.0, strategy="constant")
    stage = Stage(monkeypatch, state=TrainState(), scheduler=scheduler, evaluation={"every_n_steps": None})
    stage.trainer.run()
    assert not caplog.records


def test_skipped_updates_are_told_at_the_end(monkeypatch, caplog):
    stage = Stage(monkeypatch, skipped=[2, 5])
    stage.trainer.run()
    assert "2 of 6 updates were skipped: their loss or gradients were not finite" in caplog.text
