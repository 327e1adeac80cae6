"""Rotary positions: each pair of channels of a query or key is turned by an angle that grows with its place.

    channel i and channel i + r/2 are one pair (half-split), turned by  position * frequency_i

The dot product of two turned vectors depends on the distance of their positions only. Half-split is the order
of Llama and Qwen3 in Hugging Face files; interleaved pairs are the same model with the rows of q and k permuted.
r is the head's width, or with a partial rotary factor its first channels; the rest carries no position.

`rope_mode: preapply` looks the angles up in a table, made in float32 on the CPU whatever the device, so that every
machine turns by the same ones. `on_the_fly` keeps the frequencies only and makes the angles of the positions at
hand in every pass, on the device: the same bits on the CPU, the same but for rounding elsewhere. The table costs
8 r bytes per position, which counts from hundreds of thousands of positions on.

Reference: RoFormer, arXiv:2104.09864 section 3.2; `frequencies` has what stretches it.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from candlewick.config import ModelConfig
from candlewick.model.frequencies import attention_factor, inverse_frequencies

Rotation = tuple[Tensor, Tensor]
"""Cosines (c, c) and sines (-s, s) of the angles, each (T, 1, r) or (B, T, 1, r): they broadcast over heads."""


class Rotary(nn.Module):
    """The angles of every position: as a table made once, or as frequencies. Never saved."""

    cos: Tensor
    sin: Tensor
    frequencies: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.is_table = config, config.rope_mode == "preapply"
        table = (config.max_position_embeddings, 1, config.rotary_dim)
        shapes = {"cos": table, "sin": table} if self.is_table else {"frequencies": (config.rotary_dim // 2,)}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.empty(shape, dtype=torch.float32), persistent=False)
        self.init_buffers()

    def init_buffers(self) -> None:
        """Fill the buffers where they lie; needed again after `to_empty`, which leaves them undefined."""
        device = next(self.buffers()).device
        with torch.device("meta" if device.type == "meta" else "cpu"):
            frequencies = inverse_frequencies(self.config)
            if self.is_table:
                cos, sin = self._turns(torch.arange(self.config.max_position_embeddings), frequencies)
                self.cos, self.sin = cos.to(device), sin.to(device)
            else:
                self.frequencies = frequencies.to(device)

    def forward(self, start: int, length: int, dtype: torch.dtype, positions: Tensor | None = None) -> Rotation:
        """Return the rotation of positions `start` to `start + length - 1`, or of `positions` (B, T)."""
        if self.is_table:
            where = slice(start, start + length) if positions is None else positions
            cos, sin = self.cos[where], self.sin[where]
        else:
            if positions is None:
                positions = torch.arange(start, start + length, device=self.frequencies.device)
            cos, sin = self._turns(positions, self.frequencies)
        return cos.to(dtype), sin.to(dtype)

    def _turns(self, positions: Tensor, frequencies: Tensor) -> Rotation:
        """Positions of any shape -> float32 rotation (..., 1, r)."""
        angles = positions.to(torch.float32)[..., None, None] * frequencies  # (..., 1, r/2)
        factor = attention_factor(self.config)
        cos, sin = angles.cos() * factor, angles.sin() * factor
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn the first r channels of queries or keys (B, T, heads, d) by their positions."""
    cos, sin = rotation
    width = cos.shape[-1]
    if width == x.shape[-1]:
        return cast(Tensor, _Rotate.apply(x, cos, sin))
    return torch.cat((cast(Tensor, _Rotate.apply(x[..., :width], cos, sin)), x[..., width:]), dim=-1)


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
