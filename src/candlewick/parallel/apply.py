"""Everything that is applied to a model from outside, in the only order that works.

(float8 -> tensor parallel -> recompute -> compile, when they come)  ->  sharding and precision
"""

from torch import nn

from candlewick.parallel.env import Distributed
from candlewick.parallel.fsdp import apply_fsdp


def parallelize(objective: nn.Module, blocks: nn.ModuleList, distributed: Distributed) -> None:
    """Prepare `objective` (the loss around the model) for this device and these ranks, in place."""
    apply_fsdp(objective, blocks, distributed)
