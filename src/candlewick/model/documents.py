"""The documents in the rows of a batch, for attention within documents.

    row       a a a b b | c c c c c          B = 2, T = 5; a row's first token always begins a document
    positions 0 1 2 0 1 | 0 1 2 3 4
    ends      0 3 5 10 10 10 10 10 10 10 10  cumulative lengths over all B T tokens, padded to B T + 1

The shapes depend on B and T only, so that no batch compiles a model again. `ends` are the cumulative sequence
lengths of variable-length kernels; the CPU reads the number of documents from its copy, without waiting.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Documents:
    """The documents of one batch."""

    positions: Tensor  # (B, T) int32, position of each token in its document
    ends: Tensor  # (B T + 1,) int32
    host_ends: Tensor  # the same, on the CPU

    @classmethod
    def from_starts(cls, starts: Tensor) -> Self:
        """Make them from a mask (B, T), bool on the CPU: a document begins where it is True, and in column 0."""
        is_start, total = starts.clone(), starts.numel()
        is_start[:, 0] = True
        indices = is_start.flatten().nonzero().flatten().int()
        ends = torch.full((total + 1,), total, dtype=torch.int32)
        ends[: indices.numel()] = indices
        lengths = ends[: indices.numel() + 1].diff()
        positions = torch.arange(total, dtype=torch.int32) - indices.repeat_interleave(lengths)
        return cls(positions.view_as(starts), ends, ends)

    @cached_property
    def lengths(self) -> list[int]:
        """The number of tokens of each document."""
        return document_lengths(self.host_ends)

    def to(self, device: torch.device) -> Self:
        """Return a copy on a device; `host_ends` stays on the CPU."""
        return replace(self, positions=on_device(self.positions, device), ends=on_device(self.ends, device))


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the CPU to a device, without waiting for the device."""
    if device.type == "cuda":  # pragma: cuda
        # a copy from pageable memory would wait for all work that is queued on the device
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def document_lengths(host_ends: Tensor) -> list[int]:
    """Return the lengths of documents from their cumulative ends on the CPU, without the padding."""
    lengths = host_ends.diff()
    return lengths[lengths > 0].tolist()
