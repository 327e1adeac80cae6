"""Products in bfloat16, through FSDP2, on the CPU: what is trained, saved and resumed stays float32."""

import pytest
import torch

from candlewick.checkpoint.layout import list_checkpoints
from candlewick.checkpoint.safetensors import read_tensors
from candlewick.errors import Interrupted
from candlewick.pipeline.training import run_training
from candlewick.train.trackers import read_metrics
from candlewick.train.trainer import Trainer


def configure(tiny, tied, precision):
    model = {**tiny().model.model_dump(mode="json"), "tie_word_embeddings": tied, "residual_dropout": 0.1}
    runtime = {**tiny().runtime.model_dump(mode="json"), "precision": precision}
    runtime["checkpoint"] = {"every_n_steps": 4}
    return tiny(model=model, runtime=runtime, scheduler={"total_steps": 9, "warmup_steps": 2})


def final(run_dir) -> dict[str, torch.Tensor]:
    folder = list_checkpoints(run_dir / "checkpoints")[-1]
    assert folder.name == "step_000000009"
    return read_tensors(folder / "model.safetensors") | read_tensors(folder / "optimizer.safetensors")


def rows(run_dir) -> list[dict]:
    """The metrics that do not depend on the clock, samples included."""
    return [
        {key: value for key, value in row.items() if not key.startswith("perf/")}
        for row in read_metrics(run_dir / "metrics.jsonl")
    ]


@pytest.mark.parametrize("tied", [True, False])
def test_bfloat16_trains_saves_float32_and_resumes_to_the_bit(tiny, tmp_path, monkeypatch, tied):
    config = configure(tiny, tied, "bf16")
    whole = run_training(config, tmp_path / "whole", resume=False)

    # saved right after an evaluation and in between: master weights, not what the products read
    for place in ("whole/best", "whole/checkpoints"):
        for folder in list_checkpoints(tmp_path / place):
            weights = read_tensors(folder / "model.safetensors")
            assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
            for name, tensor in weights.items():
                assert not torch.equal(tensor, tensor.bfloat16().float()), f"{folder.name} {name}"

    # stopped on an evaluation and between two saves
    original = Trainer._plan_end
    for number, step in enumerate((4, 6)):
        with monkeypatch.context() as patch:

            def plan_end(trainer, step=step):
                original(trainer)
                if trainer.state.step == step:
                    trainer.stop.on_signal(2, None)

            patch.setattr(Trainer, "_plan_end", plan_end)
            with pytest.raises(Interrupted):
                run_training(config, tmp_path / "parts", resume=number > 0)
    parts = run_training(config, tmp_path / "parts", resume=True)
    expected, found = final(tmp_path / "whole"), final(tmp_path / "parts")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert parts["metrics"] == whole["metrics"]
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")

    # 8 bits of mantissa move the loss of such a short run by less than 1 %
    exact = run_training(configure(tiny, tied, "fp32"), tmp_path / "exact", resume=False)
    assert whole["metrics"]["eval/loss"] == pytest.approx(exact["metrics"]["eval/loss"], rel=0.01)
    losses = [[row["train/loss"] for row in rows(tmp_path / d) if "train/loss" in row] for d in ("whole", "exact")]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert losses[0] != losses[1]


def test_a_run_may_go_on_in_the_other_precision(tiny, tmp_path):
    first = configure(tiny, True, "bf16")
    short = first.model_copy(update={"scheduler": first.scheduler.model_copy(update={"total_steps": 4})})
    run_training(short, tmp_path / "run", resume=False)
    result = run_training(configure(tiny, True, "fp32"), tmp_path / "run", resume=True)
    assert result["steps"] == 9
