"""Apply recomputation to a model, then sharding and precision."""

from torch import nn

from candlewick.model.transformer import Transformer
from candlewick.parallel.device import Distributed
from candlewick.parallel.fsdp import apply_fsdp
from candlewick.parallel.recompute import Recompute, apply_recompute


def parallelize(
    objective: nn.Module, model: Transformer, distributed: Distributed, recompute: Recompute = "none"
) -> None:
    """Prepare the objective (the loss around the model) for its device and ranks, in place."""
    blocks, config = model.model.layers, model.config
    apply_recompute(blocks, recompute, has_dropout=config.attn_dropout > 0 or config.residual_dropout > 0)
    apply_fsdp(objective, blocks, distributed)
