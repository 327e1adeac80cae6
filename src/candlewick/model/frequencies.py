"""The rotary frequency of each pair of channels, and its scaling to longer contexts.

    plain     w_i = theta^(-2i/r)          i = 0 .. r/2 - 1, r the rotated channels of a head; fast ones first
    linear    w_i / factor                                                        arXiv:2306.15595
    ntk       theta becomes theta * alpha^(r / (r - 2)): w_0 is unchanged, the slowest is divided by alpha
    yarn      a ramp over i from w_i (fast) to w_i / factor (slow); cosines and sines are multiplied too
    llama3    the same ramp, but over the turns that w_i makes in the original context     arXiv:2407.21783

The formulas are those of transformers, in the same order of operations. ntk and YaRN: arXiv:2309.00071 sections
3.1 to 3.4.
"""

import math

import torch
from torch import Tensor

from candlewick.config import LinearScaling, Llama3Scaling, ModelConfig, YarnScaling


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """Return the angle per position (radians) of each pair, (rotary_dim / 2,) float32 on the current device."""
    theta, width, scaling = config.effective_theta, config.rotary_dim, config.rope_scaling
    powers = theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    plain = 1.0 / powers
    match scaling:
        case LinearScaling():
            return plain / scaling.factor
        case YarnScaling():
            smooth = _yarn_smooth_factor(scaling, theta, width)
            return 1.0 / (scaling.factor * powers) * (1 - smooth) + plain * smooth
        case Llama3Scaling():
            turns = scaling.original_max_position_embeddings / (2 * math.pi / plain)
            smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
            smooth = smooth.clamp(0, 1)
            return (1 - smooth) * plain / scaling.factor + smooth * plain
        case _:
            return plain


def attention_factor(config: ModelConfig) -> float:
    """Return the factor of cosines and sines: 1 without YaRN."""
    scaling = config.rope_scaling
    if not isinstance(scaling, YarnScaling):
        return 1.0
    return scaling.attention_factor or 0.1 * math.log(scaling.factor) + 1.0


def _yarn_smooth_factor(scaling: YarnScaling, theta: float, width: int) -> Tensor:
    """Return the share of the plain frequency in that of each pair, (width / 2,): 1 if fast, 0 if slow."""

    def pair_index(turns: float) -> float:
        """Return the index, as a fraction, of the pair that turns so often over the original context."""
        wavelength = scaling.original_max_position_embeddings / (turns * 2 * math.pi)
        return width * math.log(wavelength) / (2 * math.log(theta))

    first = max(math.floor(pair_index(scaling.beta_fast)), 0)
    last = min(math.ceil(pair_index(scaling.beta_slow)), width - 1)
    ramp = (torch.arange(width // 2, dtype=torch.float32) - first) / ((last - first) or 0.001)
    return 1 - ramp.clamp(0, 1)
