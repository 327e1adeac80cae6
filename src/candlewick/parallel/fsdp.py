"""Precision and sharding have one owner: FSDP2, also on a single device.

Master weights, gradient sums and the optimizer are float32; `fully_shard` hands each block its weights in the
compute dtype just before it runs. With one rank and float32 nothing is applied. See
docs/decisions/0003-precision.md.
"""

import atexit
from collections.abc import Generator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from candlewick.parallel.device import Distributed


def apply_fsdp(objective: nn.Module, blocks: nn.ModuleList, ranks: Distributed) -> None:
    """Shard every block, then the objective as root, so that its forward holds embedding and head whole."""
    if ranks.world_size == 1 and ranks.compute_dtype == torch.float32:
        return
    if not dist.is_initialized():
        backend = "nccl" if ranks.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=ranks.rank, world_size=ranks.world_size)
        atexit.register(_leave)
    mesh = init_device_mesh(ranks.device.type, (ranks.world_size,), mesh_dim_names=("data",))
    policy = MixedPrecisionPolicy(
        param_dtype=ranks.compute_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    root = fully_shard(objective, mesh=mesh, mp_policy=policy)
    assert isinstance(root, FSDPModule)
    # the loss is divided by the targets of the global batch, so gradients are summed over ranks, not averaged
    root.set_gradient_divide_factor(1.0)
    # evaluation enters here instead of through `forward`, and needs the same weights gathered
    register_fsdp_forward_method(objective, "token_losses")


def _leave() -> None:
    """Give the process group back at exit: nccl complains about one that is left."""
    if dist.is_initialized():
        dist.destroy_process_group()


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return a sharded tensor in full, any other as it is; all ranks call it together. One rank copies nothing."""
    if not isinstance(tensor, DTensor):
        return tensor
    return tensor.to_local() if tensor.device_mesh.size() == 1 else tensor.full_tensor()


@contextmanager
def unsharded(objective: nn.Module) -> Generator[None]:
    """Unshard embedding and head inside the block, so that the model can be called without its objective."""
    if isinstance(objective, FSDPModule):
        objective.unshard()
    try:
        yield
    finally:
        if isinstance(objective, FSDPModule):
            objective.reshard()
