import copy

import pytest
import torch
from tests.objectives import make_objective
from torch import nn

from candlewick.config import AdamWConfig, ModelConfig
from candlewick.data.rows.loader import Batch, GlobalBatch
from candlewick.optim.build import build_optimizer
from candlewick.parallel.recompute import Recompute
from candlewick.train.monitor.statistics import record_update_statistics
from candlewick.train.monitor.trackers import METRICS, metric_of
from candlewick.train.objective import NextTokenLoss
from candlewick.train.step import train_step

TOKENS = torch.randint(300, (4, 17), generator=torch.Generator().manual_seed(0))


def make(dtype=torch.float32, recompute: Recompute = "none", tied=True) -> NextTokenLoss:
    config = ModelConfig(
        hidden_size=32, num_layers=2, num_attention_heads=2, max_position_embeddings=16, tie_word_embeddings=tied
    )
    return make_objective(config, dtype, recompute)


def observed(objective: NextTokenLoss, rows: int = 2) -> dict[str, float]:
    """The figures of one update, in micro-batches of so many rows."""
    optimizer = build_optimizer(objective.model, AdamWConfig())
    batches = [Batch(part[:, :-1], part[:, 1:]) for part in TOKENS.split(rows)]
    with record_update_statistics(objective.model) as figures:
        train_step(objective, optimizer, GlobalBatch(tuple(batches), 64), 0.5)
    return figures()


def rms(tensors) -> float:
    numbers = torch.cat([tensor.detach().double().flatten() for tensor in tensors])
    return numbers.square().mean().sqrt().item()


@pytest.mark.parametrize("tied", [True, False])
def test_update_statistics_equal_a_plain_computation(tied):
    objective = make(tied=tied)
    before = copy.deepcopy(objective.model).double()
    found = observed(objective)
    decoder = objective.model.model
    parts = {"embedding": decoder.embed_tokens, "layers.0": decoder.layers[0], "layers.1": decoder.layers[1]}
    parts |= {} if tied else {"head": objective.model.lm_head}
    expected = {}
    for name, module in parts.items():
        expected[f"stats/{name}/weight_rms"] = rms(module.parameters())
        expected[f"stats/{name}/gradient_rms"] = rms(p.grad for p in module.parameters())
    blocks = before.model.layers
    before.model.register_module("norm", nn.Identity())
    for count, name in enumerate(("embedding", "layers.0", "layers.1")):
        before.model.layers = blocks[:count]
        output = before.hidden(TOKENS[:, :-1])
        expected[f"stats/{name}/activation_rms"] = rms([output])
        expected[f"stats/{name}/activation_max"] = output.abs().max().item()
    assert found == pytest.approx(expected, rel=1e-5)
    assert {metric_of(name) for name in found} <= METRICS.keys()


def test_update_statistics_do_not_depend_on_micro_batches_recompute_or_sharding():
    expected = observed(make())
    assert observed(make(), rows=1) == pytest.approx(expected, rel=1e-5)
    assert observed(make(recompute="block")) == expected
    assert observed(make(recompute="selective")) == expected
    assert observed(make(torch.bfloat16)) == pytest.approx(expected, rel=0.05)


def test_record_update_statistics_removes_its_hooks():
    objective = make()
    with pytest.raises(ZeroDivisionError), record_update_statistics(objective.model):
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in objective.modules())
