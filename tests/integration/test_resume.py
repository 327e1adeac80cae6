"""An interrupted and resumed run has the weights of an uninterrupted one, bit by bit."""

import os
import signal

import pytest
import torch

from candlewick.checkpoint.layout import list_checkpoints
from candlewick.checkpoint.safetensors import read_tensors
from candlewick.errors import RunInterrupted
from candlewick.runs.train import run_training
from candlewick.train.monitor.trackers import read_metrics
from candlewick.train.trainer import Trainer

pytestmark = pytest.mark.usefixtures("default_signals")


def _interrupt_at(monkeypatch, step):
    """Send this process SIGINT once, in the middle of update number `step`."""
    original = Trainer._set_total_steps

    def plan_end(trainer):
        original(trainer)
        if trainer.state.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "_set_total_steps", plan_end)


def _final(run_dir):
    folder = list_checkpoints(run_dir / "checkpoints")[-1]
    assert folder.name == "step_000000012"
    return read_tensors(folder / "model.safetensors") | read_tensors(folder / "training/optimizer.safetensors")


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {
            "model": {
                "hidden_size": 32,
                "num_layers": 2,
                "num_attention_heads": 2,
                "max_position_embeddings": 32,
                "attn_dropout": 0.1,
                "residual_dropout": 0.2,
            },
            "optimizer": {"algorithm": "adam_w", "learning_rate": 1e-3},
        },
    ],
    ids=["muon", "adam_w with dropout"],
)
def test_run_interrupted_at_five_steps_equals_an_uninterrupted_one(tiny, tmp_path, monkeypatch, sections):
    sections["data"] = {**tiny().data.model_dump(mode="json"), "global_batch_size": 8}
    config = tiny(**sections)
    whole = run_training(config, tmp_path / "whole", resume=False)
    # in order: before any save; on an evaluation; on a save; between; on both an evaluation and near the end
    for number, step in enumerate((2, 4, 5, 7, 11)):
        with monkeypatch.context() as patch:
            _interrupt_at(patch, step)
            with pytest.raises(RunInterrupted, match=f"SIGINT at step {step}"):
                run_training(config, tmp_path / "parts", resume=number > 0)
    parts = run_training(config, tmp_path / "parts", resume=True)
    expected, found = _final(tmp_path / "whole"), _final(tmp_path / "parts")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert parts["metrics"] == whole["metrics"]
    rows = [
        [
            {k: v for k, v in row.items() if not k.startswith("perf/")}
            for row in read_metrics(tmp_path / d / "metrics.jsonl")
        ]
        for d in ("whole", "parts")
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    "optimizer",
    [
        {"algorithm": "muon", "ema_decay": 0.9, "normuon_beta2": 0.95, "cautious_decay": True},
        {"algorithm": "adam", "learning_rate": 1e-3},
        {"algorithm": "sgd", "nesterov": True},
        {"algorithm": "lion", "ema_decay": 0.5},
    ],
    ids=["muon with averages", "adam", "sgd", "lion with averages"],
)
def test_resume_is_bitwise_with_every_optimizer(tiny, tmp_path, monkeypatch, optimizer):
    runtime = tiny().runtime.model_dump(mode="json") | {"sample": None, "recompute": "block"}
    config = tiny(optimizer=optimizer, runtime=runtime)
    whole = run_training(config, tmp_path / "whole", resume=False)
    with monkeypatch.context() as patch:
        _interrupt_at(patch, 6)
        with pytest.raises(RunInterrupted):
            run_training(config, tmp_path / "parts", resume=False)
    parts = run_training(config, tmp_path / "parts", resume=True)
    expected, found = _final(tmp_path / "whole"), _final(tmp_path / "parts")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert parts["metrics"] == whole["metrics"]
