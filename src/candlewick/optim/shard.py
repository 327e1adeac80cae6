"""The part of a sharded tensor that lies on this rank: all that the optimizers know of sharding."""

from torch import Tensor
from torch.distributed.tensor import DTensor  # noqa: TID251 - to see through it, not to speak to other ranks


def local_tensor(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor, sharing its memory; one that is not sharded as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
