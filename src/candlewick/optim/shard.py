"""The local part of a sharded tensor. Optimizers need nothing else of sharding."""

from typing import Any, cast

from torch import Tensor


def local_tensor(tensor: Tensor) -> Tensor:
    """Return this rank's part of a DTensor, sharing its memory; return any other tensor unchanged."""
    # asked by its method: the module of DTensor takes most of a second to import, and one rank has none
    return cast(Any, tensor).to_local() if hasattr(tensor, "to_local") else tensor
