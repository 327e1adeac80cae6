"""Where documents begin in the rows of a batch, for attention that does not look across.

    row       a a a b b | c c c c c          B = 2, T = 5; a row's first token always begins a document
    positions 0 1 2 0 1 | 0 1 2 3 4
    ends      0 3 5 10 10 10 10 10 10 10 10  cumulative lengths over all B T tokens, padded to B T + 1

The shapes depend on B and T only, so that no batch compiles a model again. `ends` is what variable-length kernels
call cumulative sequence lengths; its copy on the CPU tells how many are real without waiting for the device.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Documents:
    """The documents of one batch."""

    positions: Tensor  # (B, T) int32, the place of each token in its document
    ends: Tensor  # (B T + 1,) int32
    host_ends: Tensor  # the same, on the CPU

    @classmethod
    def from_starts(cls, starts: Tensor) -> Self:
        """Make them from a mask (B, T) on the CPU: a document begins where it is True, and in column 0."""
        first, total = starts.clone(), starts.numel()
        first[:, 0] = True
        begins = first.flatten().nonzero().flatten().int()
        ends = torch.full((total + 1,), total, dtype=torch.int32)
        ends[: begins.numel()] = begins
        lengths = ends[: begins.numel() + 1].diff()
        positions = torch.arange(total, dtype=torch.int32) - begins.repeat_interleave(lengths)
        return cls(positions.view_as(starts), ends, ends)

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each document."""
        return document_lengths(self.host_ends)

    def to(self, device: torch.device) -> Self:
        """Return them on a device."""
        return replace(self, positions=on_device(self.positions, device), ends=on_device(self.ends, device))


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on a device, without waiting for it."""
    if device.type == "cuda":  # pragma: cuda
        # from pageable memory the copy would wait for all that the device still has to compute
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def document_lengths(host_ends: Tensor) -> list[int]:
    """Return the lengths that cumulative ends on the CPU stand for, without the padding."""
    lengths = host_ends.diff()
    return lengths[lengths > 0].tolist()
