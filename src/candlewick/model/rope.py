"""Rotary positions: each pair of channels of a query or key is turned by an angle that grows with its place.

    channel i and channel i + d/2 are one pair (half-split), turned by  position * theta^(-2i/d)

The dot product of two turned vectors depends on the distance of their positions only. Half-split is the order
of Llama and Qwen3 in Hugging Face files; interleaved pairs are the same model with the rows of q and k permuted.

The angles are made in float32 on the CPU whatever the device, so that every machine turns by the same ones.
Reference: RoFormer, arXiv:2104.09864 section 3.2.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

Rotation = tuple[Tensor, Tensor]
"""Cosines (c, c) and sines (-s, s) of the angles, each (T, 1, d): they broadcast over (B, T, heads, d)."""


class Rotary(nn.Module):
    """The table of angles: `max_positions` rows of cosines and sines, made once, never saved."""

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, theta: float, max_positions: int) -> None:
        super().__init__()
        self.head_dim, self.theta, self.max_positions = head_dim, theta, max_positions
        for name in ("cos", "sin"):
            table = torch.empty(max_positions, 1, head_dim, dtype=torch.float32)
            self.register_buffer(name, table, persistent=False)
        self.init_buffers()

    def init_buffers(self) -> None:
        """Fill the table where it lies; needed again after `to_empty`, which leaves it undefined."""
        device = self.cos.device
        with torch.device("meta" if device.type == "meta" else "cpu"):
            pairs = torch.arange(0, self.head_dim, 2, dtype=torch.float32)
            inverse_frequency = 1.0 / self.theta ** (pairs / self.head_dim)
            positions = torch.arange(self.max_positions, dtype=torch.float32)
            angles = positions[:, None, None] * inverse_frequency  # (max_positions, 1, d/2)
            cos, sin = angles.cos(), angles.sin()
        self.cos = torch.cat((cos, cos), dim=-1).to(device)  # (max_positions, 1, d)
        self.sin = torch.cat((-sin, sin), dim=-1).to(device)

    def forward(self, start: int, length: int, dtype: torch.dtype) -> Rotation:
        """Return the rotation of positions `start` to `start + length - 1`.

        Raises ValueError beyond the table: past it the model would be in a place it was never made for.
        """
        end = start + length
        if end > self.max_positions:
            raise ValueError(f"position {end - 1} is beyond max_position_embeddings={self.max_positions}")
        return self.cos[start:end].to(dtype), self.sin[start:end].to(dtype)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn queries or keys (B, T, heads, d) by their positions."""
    cos, sin = rotation
    return cast(Tensor, _Rotate.apply(x, cos, sin))


class _Rotate(torch.autograd.Function):
    """A rotation, whose gradient is the rotation back: nothing of the size of x is kept for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(grad_outputs[0], cos, -sin), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.mul(x, cos).addcmul_(x.roll(x.shape[-1] // 2, dims=-1), sin)
