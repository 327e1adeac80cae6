import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from candlewick.config import ModelConfig
from candlewick.model.transformer import Transformer
from candlewick.parallel.apply import parallelize
from candlewick.parallel.env import Distributed
from candlewick.train.objective import NextTokenLoss


def applied(dtype: torch.dtype) -> list[nn.Module]:
    """Apply everything to a small objective; return what was sharded."""
    config = ModelConfig(hidden_size=32, num_layers=2, num_attention_heads=2, max_position_embeddings=16)
    objective = NextTokenLoss(Transformer(config, 320), num_tokens=300)
    blocks = objective.model.model.layers
    parallelize(objective, blocks, Distributed(0, 1, torch.device("cpu"), dtype))
    sharded = [module for module in objective.modules() if isinstance(module, FSDPModule)]
    assert sharded in ([], [objective, *blocks])
    return sharded


def test_each_block_and_the_objective_around_them_are_sharded():
    assert len(applied(torch.bfloat16)) == 3


def test_nothing_is_applied_where_nothing_is_needed():
    assert applied(torch.float32) == []
