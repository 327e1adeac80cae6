"""FSDP2 applies both precision and sharding, also on a single device.

Master weights, gradient sums and the optimizer are float32; `fully_shard` casts and gathers the weights of each
block just before it runs. With one rank and float32 nothing is applied, and torch's modules for it, which take
most of a second, are not imported: what is sharded is told by its methods. See docs/decisions/0003-precision.md.
"""

import atexit
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from candlewick.parallel.device import Distributed


def apply_fsdp(objective: nn.Module, blocks: nn.ModuleList, distributed: Distributed) -> None:
    """Shard every block, then the objective as root, whose forward gathers embedding and head."""
    world_size = distributed.world_size
    if world_size == 1 and distributed.compute_dtype == torch.float32:
        return
    _shard(objective, blocks, distributed)


def _shard(objective: nn.Module, blocks: nn.ModuleList, distributed: Distributed) -> None:
    import torch.distributed as dist  # noqa: PLC0415
    from torch._C._distributed_c10d import HashStore  # noqa: PLC0415
    from torch.distributed import fsdp  # noqa: PLC0415
    from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415

    world_size = distributed.world_size
    if not dist.is_initialized():
        backend = "nccl" if distributed.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=distributed.rank, world_size=world_size)
        atexit.register(_destroy_process_group)
    mesh = init_device_mesh(distributed.device.type, (world_size,), mesh_dim_names=("data",))
    policy = fsdp.MixedPrecisionPolicy(
        param_dtype=distributed.compute_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for block in blocks:
        fsdp.fully_shard(block, mesh=mesh, mp_policy=policy)
    root = fsdp.fully_shard(objective, mesh=mesh, mp_policy=policy)
    assert isinstance(root, fsdp.FSDPModule)
    # the loss is divided by the targets of the global batch, so gradients are summed over ranks, not averaged
    root.set_gradient_divide_factor(1.0)
    # evaluation calls this in place of `forward`, and needs the same weights gathered
    fsdp.register_fsdp_forward_method(objective, "token_losses")


def _destroy_process_group() -> None:
    """Destroy the process group at exit: nccl warns about one that is left."""
    import torch.distributed as dist  # noqa: PLC0415

    if dist.is_initialized():
        dist.destroy_process_group()


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Gather a sharded tensor, with all ranks; one rank copies nothing. Any other tensor is returned unchanged."""
    if not hasattr(tensor, "to_local"):
        return tensor
    sharded = cast(Any, tensor)
    return sharded.to_local() if sharded.device_mesh.size() == 1 else sharded.full_tensor()


def sharded_like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Return a whole tensor sharded as a parameter is; for one that is not sharded the same tensor."""
    if not hasattr(parameter, "to_local"):
        return tensor
    from torch.distributed.tensor import distribute_tensor  # noqa: PLC0415

    like = cast(Any, parameter)
    return distribute_tensor(tensor.to(parameter.device), like.device_mesh, like.placements)


@contextmanager
def unsharded(objective: nn.Module) -> Generator[None]:
    """Gather embedding and head while the block runs, so that the model can be called without its objective."""
    sharded = cast(Any, objective) if hasattr(objective, "unshard") else None
    if sharded is not None:
        sharded.unshard()
    try:
        yield
    finally:
        if sharded is not None:
            sharded.reshard()
