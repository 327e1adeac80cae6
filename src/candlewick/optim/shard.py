"""The local part of a sharded tensor. Optimizers need nothing else of sharding."""

from torch import Tensor
from torch.distributed.tensor import DTensor  # noqa: TID251 - to unwrap it, not to communicate


def local_tensor(tensor: Tensor) -> Tensor:
    """Return this rank's part of a DTensor, sharing its memory; return any other tensor unchanged."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
