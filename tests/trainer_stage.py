"""A Trainer whose parts write down what they are asked to do, in the place of a model and a disk."""

import os
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from candlewick.config import (
    BestConfig,
    CheckpointConfig,
    EvaluationConfig,
    MuonConfig,
    RuntimeConfig,
    SchedulerConfig,
)
from candlewick.data.rows.batches import BatchSchedule
from candlewick.data.rows.loader import GlobalBatch
from candlewick.train import saver as saver_module
from candlewick.train import trainer as trainer_module
from candlewick.train.mean_loss import MeanLoss
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
        self.training_losses: dict[int, float] = {}
        self.state = settings.pop("state", None) or TrainState(total_steps=6)
        self.scheduler = settings.pop(
            "scheduler", SchedulerConfig(total_steps=6, strategy="constant", warmup_steps=2)
        )
        self.sampling = settings.pop("sampling", True)
        self.rows_read = 10 * self.state.step
        self.loss_scale, self.max_steps = settings.pop("loss_scale", None), settings.pop("max_steps", None)
        evaluation = {"every_n_steps": 2, "max_tokens": 5, "best": BestConfig(), **settings.pop("evaluation", {})}
        self.runtime = RuntimeConfig(
            log_every_n_steps=4,
            max_nonfinite_steps=2,
            checkpoint=settings.pop("checkpoint", CheckpointConfig(every_n_steps=3)),
            evaluation=EvaluationConfig(**evaluation),
            **settings,
        )
        monkeypatch.setattr(trainer_module, "train_step", self.train_step)
        monkeypatch.setattr(saver_module, "save", self.save)
        monkeypatch.setattr(saver_module, "link_best", self.link_best)
        monkeypatch.setattr(saver_module, "prune", lambda *given: self.pruned.append(given[2:4]))
        self.weights = {"w": torch.ones(2)}
        self.linked: list[tuple[int, ...]] = []
        self.pruned: list[tuple[int, tuple[int, ...]]] = []
        monkeypatch.setattr(trainer_module, "record_update_statistics", self.record_update_statistics)
        objects = vars(self.objects())
        methods = {name: objects.pop(name) for name in ("evaluate", "sample", "snapshot")}
        self.trainer = Trainer(**objects)
        vars(self.trainer).update(methods)

    sequence_length, num_rows = 10, 1000

    def next(self) -> GlobalBatch:
        self.rows_read += 10
        return GlobalBatch((), 1)

    def say(self, event: str) -> None:
        self.events.append(event)
        if (number := self.stop_at.pop(event, None)) is not None:
            os.kill(os.getpid(), number)

    def objects(self) -> Any:
        reporter = SimpleNamespace(
            running=lambda _: nullcontext(),
            step=lambda state, loss, _, rate: self.say(f"log {state.step}") or self.rates.append(rate),
            log=lambda step, figures: self.say(f"statistics {step} {figures}"),
            end_training_interval=lambda: None,
            evaluation=lambda state, metrics: None,
            samples=lambda state, samples: self.say(f"sample {state.step}"),
            checkpoint=lambda state, folder: self.reported.append(f"{folder} {state.step}"),
        )
        config = SimpleNamespace(runtime=self.runtime, scheduler=self.scheduler, optimizer=MuonConfig())
        batches = BatchSchedule(rows=10).resume_at(self.state.step, self.rows_read)
        folder = SimpleNamespace(folder=Path("checkpoints") / f"step_{self.state.step:09d}")
        checkpoint = folder if self.state.step else None
        return SimpleNamespace(
            plan=SimpleNamespace(
                config=config,
                run_dir=Path(),
                start=SimpleNamespace(run="run", checkpoint=checkpoint),
                order=self,
                tokenizer=SimpleNamespace(vocab_size=100),
                data=SimpleNamespace(validation_splits={"": SimpleNamespace(num_targets=100)}),
                batches=batches,
                max_steps=self.max_steps,
                num_parameters=1,
            ),
            state=self.state,
            objective=SimpleNamespace(model="model"),
            optimizer=SimpleNamespace(
                set_lr=self.multipliers.append, named_state=lambda: {"moment": torch.zeros(1)}
            ),
            losses=MeanLoss(self.state, torch.device("cpu")),
            loss_scale=self.loss_scale,
            loader=self,
            reporter=reporter,
            evaluate=self.evaluate,
            sampler="a sampler" if self.sampling else None,
            sample=list,
            snapshot=lambda: SimpleNamespace(step=self.state.step, weights=self.weights, optimizer={}),
        )

    @contextmanager
    def record_update_statistics(self, model):
        self.say(f"watch the {model}")
        yield lambda: "figures"

    def train_step(self, objective, optimizer, update, max_grad_norm, loss_scale) -> StepResult:
        step, one = self.state.step + 1, torch.tensor(1.0)
        self.say(f"step {step}")
        loss = torch.tensor(self.training_losses.get(step, 1.0))
        return StepResult(loss=loss, grad_norm=one, skipped=torch.tensor(float(step in self.skipped)))

    def evaluate(self, max_tokens) -> dict[str, float]:
        self.say(f"evaluate {self.state.step}" + (" all" if max_tokens is None else ""))
        return {"eval/loss": self.losses.pop(0) if self.losses else 1.0, "eval/tokens": max_tokens or 100}

    def save(self, directory, snapshot) -> Path:
        self.say(f"save {directory} {snapshot.step}")
        return directory

    def link_best(self, checkpoints, steps, place, *, is_folder) -> None:
        assert (checkpoints, place, is_folder) == (Path("checkpoints"), Path("best"), False)
        self.linked.append(steps)
