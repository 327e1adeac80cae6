import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from candlewick.config import ModelConfig
from candlewick.model.transformer import Transformer
from candlewick.parallel.apply import parallelize
from candlewick.parallel.device import Distributed
from candlewick.parallel.recompute import Recompute
from candlewick.train.objective import NextTokenLoss


def applied(dtype: torch.dtype, recompute: Recompute = "none") -> tuple[list[nn.Module], Transformer]:
    """Apply everything to a small objective; return what was sharded, and the model."""
    config = ModelConfig(hidden_size=32, num_layers=2, num_attention_heads=2, max_position_embeddings=16)
    model = Transformer(config, 320)
    objective = NextTokenLoss(model, num_tokens=300)
    parallelize(objective, model, Distributed(0, 1, torch.device("cpu"), dtype), recompute)
    sharded: list[nn.Module] = [module for module in objective.modules() if isinstance(module, FSDPModule)]
    assert sharded in ([], [objective, *model.model.layers])
    return sharded, model


def test_apply_shards_each_block_and_the_objective():
    assert len(applied(torch.bfloat16)[0]) == 3


def test_apply_leaves_a_float32_model_unchanged():
    sharded, model = applied(torch.float32)
    assert sharded == []
    assert not any("forward" in vars(block) for block in model.model.layers)


def test_recompute_is_applied_inside_the_sharding():
    sharded, model = applied(torch.bfloat16, "block")
    assert len(sharded) == 3
    names = set(dict(model.named_parameters()))
    assert names == set(dict(applied(torch.float32)[1].named_parameters()))
    assert all("forward" in vars(block) for block in model.model.layers)
