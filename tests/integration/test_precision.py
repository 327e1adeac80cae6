"""Half-precision products through FSDP2 on the CPU: weights are trained, saved and resumed in float32."""

import json

import pytest
import torch

from candlewick.checkpoint.layout import list_checkpoints
from candlewick.checkpoint.safetensors import read_tensors
from candlewick.config import ModelConfig, MuonConfig, RuntimeConfig
from candlewick.data.rows.loader import Batch, GlobalBatch
from candlewick.errors import RunInterrupted
from candlewick.model.initialize import initialize
from candlewick.model.transformer import Transformer
from candlewick.optim.build import build_optimizer
from candlewick.parallel.device import Distributed, find_distributed
from candlewick.parallel.fsdp import apply_fsdp
from candlewick.runs.train import run_training
from candlewick.train.loss_scale import LossScale
from candlewick.train.monitor.trackers import read_metrics
from candlewick.train.objective import NextTokenLoss
from candlewick.train.state import TrainState
from candlewick.train.step import train_step
from candlewick.train.trainer import Trainer


def configure(tiny, tied, precision):
    model = {**tiny().model.model_dump(mode="json"), "tie_word_embeddings": tied, "residual_dropout": 0.1}
    runtime = {**tiny().runtime.model_dump(mode="json"), "precision": precision}
    runtime["checkpoint"] = {"every_n_steps": 4}
    optimizer = {"ema_decay": 0.9 if tied else None}
    return tiny(model=model, runtime=runtime, optimizer=optimizer, scheduler={"total_steps": 9, "warmup_steps": 2})


def final(run_dir) -> dict[str, torch.Tensor]:
    folder = list_checkpoints(run_dir / "checkpoints")[-1]
    assert folder.name == "step_000000009"
    return read_tensors(folder / "model.safetensors") | read_tensors(folder / "training/optimizer.safetensors")


def rows(run_dir) -> list[dict]:
    """The metrics that do not depend on the clock, samples included."""
    return [
        {key: value for key, value in row.items() if not key.startswith("perf/")}
        for row in read_metrics(run_dir / "metrics.jsonl")
    ]


def counters_of(run_dir) -> dict:
    """The counters of the last checkpoint, without the clock."""
    state = json.loads((list_checkpoints(run_dir / "checkpoints")[-1] / "training/state.json").read_bytes())
    return {name: value for name, value in state["counters"].items() if name != "train_seconds"}


CPU = torch.device("cpu")
ROWS = 16


def curve(dtype: torch.dtype, micro_batch_size: int = ROWS) -> torch.Tensor:
    """The losses of ten updates of 16 rows; in float64 without anything around the model."""
    config = ModelConfig(hidden_size=64, num_layers=2, num_attention_heads=2, max_position_embeddings=32)
    model = Transformer(config, 320)
    model.init_buffers()
    initialize(model, 0)
    objective = NextTokenLoss(model, num_tokens=300)
    if dtype == torch.float64:
        objective.double()
    else:
        apply_fsdp(objective, model.model.layers, Distributed(0, 1, CPU, dtype))
    optimizer = build_optimizer(model, MuonConfig())
    scale = LossScale(TrainState(), CPU) if dtype == torch.float16 else None
    tokens = torch.randint(300, (ROWS, 33), generator=torch.Generator().manual_seed(0))
    parts = tokens.split(micro_batch_size)
    batches = tuple(Batch(part[:, :-1], part[:, 1:]) for part in parts)
    update = GlobalBatch(batches, ROWS * 32)
    losses = [train_step(objective, optimizer, update, 1.0, scale).loss.item() for _ in range(10)]
    assert losses[-1] < 0.8 * losses[0]
    return torch.tensor(losses, dtype=torch.float64)


@pytest.fixture(scope="module")
def exact() -> torch.Tensor:
    return curve(torch.float64)


# what ten updates make of the unit roundoff of 24, 8 and 11 bits of mantissa
@pytest.mark.parametrize(
    ("precision", "limit"), [("fp32", 2e-6), ("auto", 2e-6), ("bf16", 5e-3), ("mixed", 5e-3), ("fp16", 1e-3)]
)
def test_loss_curve_agrees_with_float64_within_rounding(precision, limit, exact, core_row):
    dtype = find_distributed(RuntimeConfig(device="cpu", precision=precision)).compute_dtype
    error = ((curve(dtype) - exact).abs() / exact).max().item()
    core_row(f"runtime.precision={precision}", "float64, losses of 10 updates, on the CPU", error, limit)
    assert (error > 1e-5) == (dtype != torch.float32)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_loss_curve_depends_on_micro_batches_by_rounding_only(size, core_row):
    expected = curve(torch.float32)
    error = ((curve(torch.float32, size) - expected).abs() / expected).max().item()
    core_row("data.micro_batch_size", "16 rows at once, losses of 10 updates, float32", error, 2e-6)


@pytest.mark.parametrize(("precision", "tied"), [("bf16", True), ("bf16", False), ("fp16", True)])
def test_half_precision_run_saves_float32_and_resumes_bitwise(tiny, tmp_path, monkeypatch, precision, tied):
    config = configure(tiny, tied, precision)
    whole = run_training(config, tmp_path / "whole", resume=False)

    # saved right after an evaluation and in between: master weights, not what the products read
    for place in ("whole/best", "whole/checkpoints"):
        for folder in list_checkpoints(tmp_path / place):
            weights = read_tensors(folder / "model.safetensors")
            assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
            for name, tensor in weights.items():
                assert not torch.equal(tensor, tensor.bfloat16().float()), f"{folder.name} {name}"

    # stopped on an evaluation and between two saves
    original = Trainer._set_total_steps
    for number, step in enumerate((4, 6)):
        with monkeypatch.context() as patch:

            def plan_end(trainer, step=step):
                original(trainer)
                if trainer.state.step == step:
                    trainer.stop.on_signal(2, None)

            patch.setattr(Trainer, "_set_total_steps", plan_end)
            with pytest.raises(RunInterrupted):
                run_training(config, tmp_path / "parts", resume=number > 0)
    parts = run_training(config, tmp_path / "parts", resume=True)
    expected, found = final(tmp_path / "whole"), final(tmp_path / "parts")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert parts["metrics"] == whole["metrics"]
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")

    counters = [counters_of(tmp_path / name) for name in ("whole", "parts")]
    assert counters[0] == counters[1]
    assert (counters[0]["loss_scale"], counters[0]["loss_scale_clean_steps"]) == (
        2.0**15,
        9 if precision == "fp16" else 0,
    )

    # 8 bits of mantissa move the loss of such a short run by less than 1 %
    exact = run_training(configure(tiny, tied, "fp32"), tmp_path / "exact", resume=False)
    assert whole["metrics"]["final/loss"] == pytest.approx(exact["metrics"]["final/loss"], rel=0.01)
    losses = [[row["train/loss"] for row in rows(tmp_path / d) if "train/loss" in row] for d in ("whole", "exact")]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert losses[0] != losses[1]


def test_run_may_be_resumed_in_another_precision(tiny, tmp_path):
    first = configure(tiny, True, "bf16")
    short = first.replaced(scheduler={"total_steps": 4})
    run_training(short, tmp_path / "run", resume=False)
    result = run_training(configure(tiny, True, "fp32"), tmp_path / "run", resume=True)
    assert result["steps"] == 9
