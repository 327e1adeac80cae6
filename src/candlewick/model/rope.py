"""Rotary positions: each pair of channels of a query or key is rotated by an angle that grows with its position.

    channel i and channel i + r/2 are one pair (half-split), rotated by  position * frequency_i

Half-split is the order of Llama and Qwen3 in Hugging Face files. r is the head's width, or with a partial rotary
factor a share of it; the other channels carry no position. `rope_mode: preapply` looks the angles up in a table of
4 r bytes per position, which is always computed on the CPU. `on_the_fly` computes the angles in every pass, on the
device: the same bits on the CPU, equal up to rounding elsewhere. Reference: RoFormer, arXiv:2104.09864 section
3.2.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from candlewick.config import ModelConfig
from candlewick.model.frequencies import attention_factor, inverse_frequencies

Rotation = tuple[Tensor, Tensor]
"""Cosines (c, c) and sines (-s, s) of the angles, each (T, 1, r) or (B, T, 1, r): they broadcast over heads."""

_MIN_TABLE_POSITIONS = 4096


class Rotary(nn.Module):
    """The angles of every position: as a table that grows, or as frequencies. Never saved."""

    cos: Tensor
    sin: Tensor
    frequencies: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.is_table = config, config.rope_mode == "preapply"
        for name in ("cos", "sin") if self.is_table else ("frequencies",):
            self.register_buffer(name, torch.empty(0), persistent=False)
        self.init_buffers()

    def init_buffers(self, positions: int = 0) -> None:
        """Fill the buffers on their device; a table gets `positions` rows, or a few thousand if that is more."""
        device = next(self.buffers()).device
        length = min(max(positions, _MIN_TABLE_POSITIONS), self.config.max_position_embeddings)
        if device.type == "meta":  # shapes alone: torch would import its compiler to compute them
            angles = self.config.rotary_dim // 2
            shape = (length, 1, angles) if self.is_table else (angles,)
            for name, _ in [*self.named_buffers()]:
                setattr(self, name, torch.empty(shape, device=device))
            return
        with torch.device("cpu"):
            frequencies = inverse_frequencies(self.config)
            if self.is_table:
                cos, sin = self._angles(torch.arange(length), frequencies)
                self.cos, self.sin = cos.to(device), sin.to(device)
            else:
                self.frequencies = frequencies.to(device)

    def reserve(self, positions: int) -> None:
        """Replace a table that is too short for so many positions by one of at least twice the length.

        Before compiled passes, reserve the positions of the longest pass: then no graph replaces a table.
        """
        if self.is_table and positions > len(self.cos):
            self.init_buffers(max(positions, 2 * len(self.cos)))

    def forward(self, start: int, length: int, dtype: torch.dtype, positions: Tensor | None = None) -> Rotation:
        """Return the rotation of positions `start` to `start + length - 1`, or of some of them, (B, T)."""
        if self.is_table:
            self.reserve(start + length)
            rows = slice(start, start + length) if positions is None else positions
            cos, sin = self.cos[rows].to(dtype), self.sin[rows].to(dtype)
        else:
            if positions is None:
                positions = torch.arange(start, start + length, device=self.frequencies.device)
            cos, sin = (part.to(dtype) for part in self._angles(positions, self.frequencies))
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)

    def _angles(self, positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (..., 1, r / 2), float32, for positions of any shape."""
        angles = positions.to(torch.float32)[..., None, None] * frequencies
        factor = attention_factor(self.config)
        return angles.cos() * factor, angles.sin() * factor


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the first r channels of queries or keys (B, T, heads, d)."""
    cos, sin = rotation
    width = cos.shape[-1]
    if width == x.shape[-1]:
        return cast(Tensor, _Rotate.apply(x, cos, sin))
    return torch.cat((cast(Tensor, _Rotate.apply(x[..., :width], cos, sin)), x[..., width:]), dim=-1)


class _Rotate(torch.autograd.Function):
    """A rotation, whose gradient is the inverse rotation: nothing of the size of x is saved for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _apply_rotation(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _apply_rotation(grad_outputs[0], cos, -sin), None, None


def _apply_rotation(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.mul(x, cos).addcmul_(x.roll(x.shape[-1] // 2, dims=-1), sin)
