"""Objectives with seeded weights, as a run builds them."""

import torch

from candlewick.config import ModelConfig
from candlewick.model.initialize import initialize
from candlewick.model.transformer import Transformer
from candlewick.parallel.device import Distributed
from candlewick.parallel.fsdp import apply_fsdp
from candlewick.parallel.recompute import Recompute, apply_recompute
from candlewick.train.objective import NextTokenLoss


def make_objective(
    config: ModelConfig, dtype: torch.dtype = torch.float32, recompute: Recompute = "none"
) -> NextTokenLoss:
    """Return the objective of 300 tokens on the CPU, prepared for products in `dtype`."""
    model = Transformer(config, 320)
    model.init_buffers()
    initialize(model, 0)
    objective = NextTokenLoss(model, num_tokens=300)
    apply_recompute(model, recompute)
    apply_fsdp(objective, model.model.layers, Distributed(0, 1, torch.device("cpu"), dtype))
    return objective
