"""FSDP2 applies both precision and sharding, also on a single device.

Master weights, gradient sums and the optimizer are float32; `fully_shard` casts and gathers the weights of each
block just before it runs. With one rank and float32 nothing is applied. See docs/decisions/0003-precision.md.
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


def apply_fsdp(objective: nn.Module, blocks: nn.ModuleList, distributed: Distributed) -> None:
    """Shard every block, then the objective as root, whose forward gathers embedding and head."""
    world_size = distributed.world_size
    if world_size == 1 and distributed.compute_dtype == torch.float32:
        return
    if not dist.is_initialized():
        backend = "nccl" if distributed.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=distributed.rank, world_size=world_size)
        atexit.register(_destroy_process_group)
    mesh = init_device_mesh(distributed.device.type, (world_size,), mesh_dim_names=("data",))
    policy = MixedPrecisionPolicy(
        param_dtype=distributed.compute_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    root = fully_shard(objective, mesh=mesh, mp_policy=policy)
    assert isinstance(root, FSDPModule)
    # the loss is divided by the targets of the global batch, so gradients are summed over ranks, not averaged
    root.set_gradient_divide_factor(1.0)
    # evaluation calls this in place of `forward`, and needs the same weights gathered
    register_fsdp_forward_method(objective, "token_losses")


def _destroy_process_group() -> None:
    """Destroy the process group at exit: nccl warns about one that is left."""
    if dist.is_initialized():
        dist.destroy_process_group()


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Gather a sharded tensor, with all ranks; one rank copies nothing. Any other tensor is returned unchanged."""
    if not isinstance(tensor, DTensor):
        return tensor
    return tensor.to_local() if tensor.device_mesh.size() == 1 else tensor.full_tensor()


@contextmanager
def unsharded(objective: nn.Module) -> Generator[None]:
    """Gather embedding and head while the block runs, so that the model can be called without its objective."""
    if isinstance(objective, FSDPModule):
        objective.unshard()
    try:
        yield
    finally:
        if isinstance(objective, FSDPModule):
            objective.reshard()
