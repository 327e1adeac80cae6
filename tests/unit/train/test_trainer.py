"""The order of events of a run, with everything around the loop played by stand-ins."""

import logging
import os
import signal
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from candlewick.config import (
    BestConfig,
    CheckpointConfig,
    EvaluationConfig,
    LoggingConfig,
    MuonConfig,
    RuntimeConfig,
    SchedulerConfig,
)
from candlewick.data.rows.batches import BatchSchedule
from candlewick.data.rows.loader import GlobalBatch
from candlewick.errors import MachineError, RunDiverged, RunInterrupted
from candlewick.train import trainer as trainer_module
from candlewick.train.loss_scale import LossScale
from candlewick.train.state import TrainState
from candlewick.train.step import StepResult
from candlewick.train.trainer import Trainer


class Stage:
    """A trainer whose parts write down what they are asked to do."""

    def __init__(self, monkeypatch, *, losses=(), skipped=(), **settings):
        self.events: list[str] = []
        self.multipliers: list[float] = []
        self.reported: list[str] = []
        self.rates: list[float] = []
        self.losses, self.skipped, self.stop_at = list(losses), set(skipped), {}
        self.state = settings.pop("state", None) or TrainState(total_steps=6)
        self.scheduler = settings.pop(
            "scheduler", SchedulerConfig(total_steps=6, strategy="constant", warmup_steps=2)
        )
        self.sampling = settings.pop("sampling", True)
        self.rows_read = 10 * self.state.step
        self.loss_scale, self.max_steps = settings.pop("loss_scale", None), settings.pop("max_steps", None)
        evaluation = {"every_n_steps": 2, "max_batches": 5, "best": BestConfig(), **settings.pop("evaluation", {})}
        self.runtime = RuntimeConfig(
            log_every_n_steps=4,
            max_nonfinite_steps=2,
            checkpoint=CheckpointConfig(every_n_steps=3),
            evaluation=EvaluationConfig(**evaluation),
            **settings,
        )
        monkeypatch.setattr(trainer_module, "train_step", self.train_step)
        monkeypatch.setattr(trainer_module, "save", self.save)
        monkeypatch.setattr(trainer_module, "record_update_statistics", self.record_update_statistics)
        self.trainer = Trainer(self.components())

    sequence_length, num_rows = 10, 1000

    def next(self) -> GlobalBatch:
        self.rows_read += 10
        return GlobalBatch((), 1)

    def say(self, event: str) -> None:
        self.events.append(event)
        if (number := self.stop_at.pop(event, None)) is not None:
            os.kill(os.getpid(), number)

    def components(self) -> Any:
        reporter = SimpleNamespace(
            running=lambda _: nullcontext(),
            step=lambda state, _, rate: self.say(f"log {state.step}") or self.rates.append(rate),
            statistics=lambda step, figures: self.say(f"statistics {step} {figures}"),
            trained=lambda: None,
            evaluation=lambda state, metrics, *, whole: None,
            samples=lambda state, samples: self.say(f"sample {state.step}"),
            saved=lambda state, folder: self.reported.append(f"{folder} {state.step}"),
        )
        config = SimpleNamespace(runtime=self.runtime, scheduler=self.scheduler, optimizer=MuonConfig())
        batches = BatchSchedule(rows=10).resumed(self.state.step, self.rows_read)
        return SimpleNamespace(
            plan=SimpleNamespace(config=config, order=self, batches=batches, max_steps=self.max_steps),
            state=self.state,
            objective=SimpleNamespace(model="model"),
            optimizer=SimpleNamespace(set_lr=self.multipliers.append),
            loss_scale=self.loss_scale,
            loader=self,
            reporter=reporter,
            evaluate=self.evaluate,
            sampler="a sampler" if self.sampling else None,
            sample=list,
            snapshot=lambda: SimpleNamespace(step=self.state.step),
            checkpoints=Path("checkpoints"),
            best=Path("best"),
        )

    @contextmanager
    def record_update_statistics(self, model):
        self.say(f"watch the {model}")
        yield lambda: "figures"

    def train_step(self, objective, optimizer, update, max_grad_norm, loss_scale) -> StepResult:
        step = self.state.step + 1
        self.say(f"step {step}")
        return StepResult(torch.tensor(1.0), torch.tensor(1.0), torch.tensor(float(step in self.skipped)))

    def evaluate(self, max_batches) -> dict[str, float]:
        self.say(f"evaluate {self.state.step}" + (" all" if max_batches is None else ""))
        return {"eval/loss": self.losses.pop(0) if self.losses else 1.0}

    def save(self, directory, snapshot, *, max_keep) -> Path:
        self.say(f"save {directory} {snapshot.step}")
        return directory


def test_a_run_from_beginning_to_end(monkeypatch):
    stage = Stage(monkeypatch, losses=[3.0, 3.5, 2.0, 2.1])
    assert stage.trainer.run() == {"eval/loss": 2.1}
    assert stage.events == [
        *("step 1", "log 1", "step 2", "evaluate 2", "save best 2", "sample 2"),
        *("step 3", "save checkpoints 3"),
        *("step 4", "log 4", "evaluate 4", "sample 4"),
        *("step 5", "step 6", "evaluate 6", "save best 6", "sample 6", "save checkpoints 6", "evaluate 6 all"),
    ]
    # the time of every save is charged to saving
    assert stage.reported == ["best 2", "checkpoints 3", "best 6", "checkpoints 6"]
    assert stage.multipliers == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert stage.rates == [0.01, 0.02]
    assert (stage.state.tokens, stage.state.best_loss) == (600, 2.0)
    assert stage.state.train_seconds > 0


def test_nothing_but_the_end_when_all_is_off(monkeypatch):
    stage = Stage(monkeypatch, evaluation={"every_n_steps": None, "best": None}, sampling=False)
    stage.trainer.run()
    assert [event for event in stage.events if "step" not in event and "log" not in event] == [
        "save checkpoints 3",
        "evaluate 6",
        "save checkpoints 6",
        "evaluate 6 all",
    ]


def test_the_end_is_evaluated_once_when_every_evaluation_reads_all(monkeypatch):
    stage = Stage(monkeypatch, losses=[3.0, 2.0, 1.0], evaluation={"max_batches": None})
    assert stage.trainer.run() == {"eval/loss": 1.0}
    assert stage.events.count("evaluate 6 all") == 1
    resumed = Stage(
        monkeypatch,
        evaluation={"max_batches": None},
        state=TrainState(step=6, total_steps=6, evaluated_step=6),
    )
    resumed.trainer.run()
    assert resumed.events == ["evaluate 6 all"]


def test_too_little_memory_in_a_step_is_one_line(monkeypatch):
    stage = Stage(monkeypatch)

    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...\nmore")

    monkeypatch.setattr(trainer_module, "train_step", out_of_memory)
    with pytest.raises(MachineError, match="Tried to allocate 20.00 GiB.*micro_batch_size"):
        stage.trainer.run()


def test_the_end_is_sampled_from_once(monkeypatch):
    stage = Stage(monkeypatch, evaluation={"every_n_steps": 4})
    stage.trainer.run()
    assert [event for event in stage.events if "sample" in event] == ["sample 4", "sample 6"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", ["step 4", "log 4", "evaluate 4", "sample 4"])
def test_a_signal_lets_the_step_end_saves_and_stops(monkeypatch, number, at):
    stage = Stage(monkeypatch)
    stage.stop_at = {at: number}
    with pytest.raises(
        RunInterrupted, match=rf"stopped by {number.name} at step 4; all of it is saved .*--resume"
    ):
        stage.trainer.run()
    assert stage.events[-1] == "save checkpoints 4"
    assert "step 5" not in stage.events


def test_a_signal_while_saving_needs_no_second_save(monkeypatch):
    stage = Stage(monkeypatch)
    stage.stop_at = {"save checkpoints 3": signal.SIGINT}
    with pytest.raises(RunInterrupted, match="at step 3"):
        stage.trainer.run()
    assert stage.events.count("save checkpoints 3") == 1


def test_a_signal_in_the_last_step_comes_too_late(monkeypatch):
    stage = Stage(monkeypatch)
    stage.stop_at = {"step 6": signal.SIGINT}
    stage.trainer.run()
    assert stage.events[-2:] == ["save checkpoints 6", "evaluate 6 all"]


def test_a_second_signal_stops_at_once(monkeypatch):
    stage = Stage(monkeypatch)
    stage.stop_at = {"step 4": signal.SIGINT, "log 4": signal.SIGTERM}
    with pytest.raises(KeyboardInterrupt):
        stage.trainer.run()
    assert stage.events[-1] == "log 4"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_loss_that_is_no_number_is_not_the_best(monkeypatch):
    stage = Stage(monkeypatch, losses=[float("nan"), 3.0, float("inf"), 9.0])
    stage.trainer.run()
    assert [event for event in stage.events if "best" in event] == ["save best 4"]
    assert stage.state.best_loss == 3.0


def test_skipped_updates_are_counted_before_they_are_saved(monkeypatch):
    stage = Stage(monkeypatch, skipped=[3, 6])
    counted = []
    monkeypatch.setattr(
        trainer_module, "save", lambda directory, snapshot, max_keep: counted.append(stage.state.skipped_steps)
    )
    stage.trainer.run()
    assert counted == [0, 1, 2]  # the best at step 2, checkpoints at 3 and 6
    assert stage.state.nonfinite_in_a_row == 1


def test_too_many_in_a_row_end_the_run_without_a_save(monkeypatch):
    stage = Stage(monkeypatch, skipped=[4, 5])
    with pytest.raises(RunDiverged, match="2 updates in a row"):
        stage.trainer.run()
    assert [event for event in stage.events if "checkpoints" in event] == ["save checkpoints 3"]


def test_a_run_goes_on_from_its_state(monkeypatch):
    state = TrainState(step=3, tokens=300, total_steps=6, best_loss=0.5)
    stage = Stage(monkeypatch, state=state)
    stage.trainer.run()
    assert stage.events[0] == "step 4"
    assert "save checkpoints 6" in stage.events
    assert not [event for event in stage.events if "best" in event]
    assert state.tokens == 600


def test_a_finished_run_is_evaluated_again_but_not_saved(monkeypatch):
    stage = Stage(monkeypatch, state=TrainState(step=6, total_steps=6, evaluated_step=6))
    stage.trainer.run()
    assert stage.events == ["evaluate 6 all"]


def test_an_evaluation_that_a_stop_came_before_is_made_up_for(monkeypatch):
    stage = Stage(monkeypatch, state=TrainState(step=4, total_steps=6, evaluated_step=2))
    stage.trainer.run()
    assert stage.events[:4] == ["evaluate 4", "save best 4", "sample 4", "step 5"]


def test_the_last_weights_can_be_the_best(monkeypatch):
    stage = Stage(monkeypatch, losses=[2.0, 1.0], evaluation={"every_n_steps": None})
    stage.trainer.run()
    assert "save best 6" in stage.events


def test_a_time_budget_becomes_steps_once(monkeypatch):
    seconds = iter(range(1000))
    monkeypatch.setattr(trainer_module.time, "monotonic", lambda: next(seconds))
    scheduler = SchedulerConfig(total_seconds=20.0, strategy="constant")
    stage = Stage(monkeypatch, state=TrainState(), scheduler=scheduler, evaluation={"every_n_steps": None})
    stage.trainer.run()  # a step takes a second by this clock
    assert stage.state.total_steps == stage.state.step == 20


def test_data_that_is_read_often_enough_ends_a_run_before_its_time(monkeypatch, caplog):
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


def test_the_model_is_watched_when_its_statistics_are_due(monkeypatch):
    stage = Stage(
        monkeypatch, logging=LoggingConfig(statistics_every_n_steps=3), evaluation={"every_n_steps": None}
    )
    stage.trainer.run()
    assert stage.events[:6] == ["step 1", "log 1", "step 2", "watch the model", "step 3", "statistics 3 figures"]
    assert [event for event in stage.events if "statistics" in event] == [
        "statistics 3 figures",
        "statistics 6 figures",
    ]


def test_the_loss_scale_is_in_the_counters_that_are_saved(monkeypatch):
    scale = LossScale(TrainState(), torch.device("cpu"))
    stage = Stage(monkeypatch, loss_scale=scale)
    scale.update(torch.tensor(1.0))
    scale.update(torch.tensor(0.0))
    stage.trainer.run()
    assert (stage.state.loss_scale, stage.state.loss_scale_clean_steps) == (2.0**14, 1)


@pytest.mark.parametrize(
    ("max_batches", "told"),
    [(5, [(2, False), (4, False), (6, False), (6, True)]), (None, [(2, True), (4, True), (6, True)])],
)
def test_each_evaluation_says_whether_it_read_all_of_the_split(monkeypatch, max_batches, told):
    stage, found = Stage(monkeypatch, evaluation={"max_batches": max_batches}), []
    reporter = stage.trainer.components.reporter
    reporter.evaluation = lambda state, metrics, *, whole: found.append((state.step, whole))
    stage.trainer.run()
    assert found == told


def test_checkpoints_and_best_ones_are_kept_as_many_as_each_is_set_to(monkeypatch):
    kept = set()
    stage = Stage(monkeypatch)
    monkeypatch.setattr(
        trainer_module, "save", lambda directory, _, *, max_keep: kept.add((str(directory), max_keep))
    )
    stage.trainer.run()
    assert kept == {("best", 1), ("checkpoints", 3)}


def test_training_time_ends_before_an_evaluation_and_a_save_begin(monkeypatch):
    stage = Stage(monkeypatch, sampling=False)
    stage.trainer.components.reporter.trained = lambda: stage.say("trained")
    stage.trainer.run()
    assert stage.events[3:7] == ["trained", "evaluate 2", "save best 2", "step 3"]
    assert stage.events[7:9] == ["trained", "save checkpoints 3"]


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
