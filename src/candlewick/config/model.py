"""The shape of the transformer, and how far its rotary positions reach."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, model_validator

from candlewick.config.section import Count, Fraction, Positive, Section

ScalingFactor = Annotated[float, Field(ge=1.0, le=1e6)]
Rotations = Annotated[float, Field(gt=0.0, le=1e6)]
_MAX_THETA = 1e30  # so that float32 can hold it


class LinearScaling(Section):
    """Position interpolation: positions are divided by a factor (arXiv:2306.15595)."""

    rope_type: Literal["linear"]
    factor: ScalingFactor
    """How many times longer the context becomes."""


class NtkScaling(Section):
    """The base is raised, so that slow frequencies stretch and fast ones stay (arXiv:2309.00071 section 3.1)."""

    rope_type: Literal["ntk"]
    alpha: ScalingFactor
    """theta becomes theta * alpha^(d / (d - 2)); saved as that theta, which every reader knows."""


class YarnScaling(Section):
    """YaRN: slow frequencies are interpolated, fast ones kept, attention made sharper (arXiv:2309.00071)."""

    rope_type: Literal["yarn"]
    factor: ScalingFactor
    """How many times longer the context becomes."""
    original_max_position_embeddings: Count
    """The context before it was stretched."""
    beta_fast: Rotations = 32.0
    """Turns over the original context from which on a frequency is kept."""
    beta_slow: Rotations = 1.0
    """Turns over the original context up to which a frequency is interpolated."""
    attention_factor: Positive | None = None
    """Multiplies cosines and sines; null: 0.1 ln(factor) + 1."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.beta_fast <= self.beta_slow:
            raise ValueError(f"beta_fast={self.beta_fast} must be more than beta_slow={self.beta_slow}")
        return self


class Llama3Scaling(Section):
    """Llama 3.1's: long wavelengths are interpolated, short ones kept, a ramp between (arXiv:2407.21783)."""

    rope_type: Literal["llama3"]
    factor: ScalingFactor
    """How many times longer the context becomes."""
    original_max_position_embeddings: Count
    """The context before it was stretched."""
    low_freq_factor: Rotations = 1.0
    """Turns over the original context up to which a frequency is interpolated."""
    high_freq_factor: Rotations = 4.0
    """Turns over the original context from which on a frequency is kept; more than low_freq_factor."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        high, low = self.high_freq_factor, self.low_freq_factor
        if high <= low:
            raise ValueError(f"high_freq_factor={high} must be more than low_freq_factor={low}")
        return self


RopeScaling = Annotated[LinearScaling | NtkScaling | YarnScaling | Llama3Scaling, Discriminator("rope_type")]


def _default_intermediate_size(model: dict[str, Any]) -> int:
    """4 D; with three products 8/3 D, so that they cost what two of 4 D would, as a multiple of 64."""
    hidden = model["hidden_size"]
    return 4 * hidden if model["mlp"] == "silu" else max(64, (hidden + 12) // 24 * 64)


class ModelConfig(Section):
    """The shape of the transformer. Written to checkpoints as Qwen3 (`qk_norm`), Llama, Mistral or SmolLM3."""

    hidden_size: Count = 384
    """Width of the residual stream (D)."""
    num_layers: Count = 6
    """Transformer blocks."""
    num_attention_heads: Count = 6
    """Query heads (H)."""
    num_key_value_heads: Count = Field(default_factory=lambda model: model["num_attention_heads"])
    """Key and value heads (K); fewer than the query heads is grouped-query attention."""
    head_dim: Count = Field(default_factory=lambda m: max(1, m["hidden_size"] // m["num_attention_heads"]))
    """Width of one head (d); even, for the rotary positions."""
    mlp: Literal["swiglu", "silu"] = "swiglu"
    """swiglu: gated, three products; silu: `down(silu(up(x)))` with biases, two products, saved as a Llama."""
    intermediate_size: Count = Field(default_factory=_default_intermediate_size)
    """Width of the MLP (F); by default 8/3 of the hidden size, without a gate 4 times."""
    vocab_size: Count | None = None
    """Rows of the embedding; null: the tokenizer's size rounded up to a multiple of 64."""
    max_position_embeddings: Count = 512
    """Longest context that the model is meant for."""
    rope_mode: Literal["off", "preapply", "on_the_fly"] = "preapply"
    """Rotary positions: none; from a table of all angles that grows; or from angles made anew in every pass."""
    rope_theta: Positive = 10_000.0
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling | None = None
    """Stretches the rotary positions to longer contexts: linear, ntk, yarn or llama3; null disables scaling."""
    partial_rotary_factor: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of each head that is rotated; below 1 the checkpoint is CandlewickForCausalLM, for candlewick only."""
    sliding_window: Count | None = None
    """A token sees itself and the ones before it, so many in all; null: everything before it."""
    full_attention_every: Count | None = None
    """With a sliding window: every n-th layer sees everything before it; null: none does."""
    rms_norm_eps: Positive = 1e-6
    """Added to the mean square in every RMSNorm."""
    qk_norm: bool = True
    """RMSNorm over each query and key head before RoPE; saved as Qwen3, without as Llama, Mistral or SmolLM3."""
    attention_bias: bool = False
    """Biases in the four attention projections; for Llama and SmolLM3, so without qk_norm."""
    mlp_bias: bool = Field(default_factory=lambda model: model["mlp"] == "silu")
    """Biases in the MLP's projections, as above; `mlp: silu` always has them."""
    tie_word_embeddings: bool = True
    """Use the embedding as the output head."""
    attn_dropout: Fraction = 0.0
    """Dropout on attention weights while training; the fast attention kernels are lost with it."""
    residual_dropout: Fraction = 0.0
    """Dropout on what each attention and MLP adds to the residual stream while training."""

    @property
    def rotary_dim(self) -> int:
        """Channels of each head that are rotated."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def effective_theta(self) -> float:
        """Base of the frequencies, ntk's alpha folded in: what a saved model says as rope_theta."""
        if not isinstance(self.rope_scaling, NtkScaling):
            return self.rope_theta
        return self.rope_theta * self.rope_scaling.alpha ** (self.rotary_dim / (self.rotary_dim - 2))

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}; set model.num_key_value_heads to a divisor of it"
            )
        if self.rope_mode == "off":
            return self
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd, rotary positions need pairs; set model.head_dim")
        if self.rotary_dim % 2 or not self.rotary_dim:
            raise ValueError(
                f"partial_rotary_factor={self.partial_rotary_factor} of head_dim={self.head_dim} is "
                f"{self.rotary_dim} channels, rotary positions need pairs"
            )
        return self

    @model_validator(mode="after")
    def _check_family(self) -> Self:
        if self.mlp == "silu" and not self.mlp_bias:
            raise ValueError("the block of mlp: silu has biases; remove mlp_bias: false")
        if self.qk_norm and (self.attention_bias or self.mlp_bias):
            raise ValueError(
                "biases cannot be combined with qk_norm: such a model is saved as Qwen3, whose readers load "
                "no biases; set model.qk_norm: false"
            )
        return self

    @model_validator(mode="after")
    def _check_positions(self) -> Self:
        if self.rope_mode == "off" and (self.rope_scaling is not None or self.partial_rotary_factor < 1):
            raise ValueError("rope_mode: off leaves nothing to scale or to rotate in part")
        if isinstance(self.rope_scaling, NtkScaling) and self.rotary_dim < 4:
            raise ValueError("rope_scaling ntk needs at least 4 rotated channels per head")
        if not 1 / _MAX_THETA <= self.effective_theta <= _MAX_THETA:
            raise ValueError(f"rope_theta={self.rope_theta:g}, ntk's alpha in it, is not within 1e-30 to 1e30")
        if isinstance(self.rope_scaling, YarnScaling) and self.rope_theta <= 1:
            raise ValueError(f"rope_scaling yarn needs a rope_theta above 1, not {self.rope_theta}")
        if self.full_attention_every is not None and self.sliding_window is None:
            raise ValueError("full_attention_every without sliding_window: every layer sees everything anyway")
        return self

    def window_of(self, layer: int) -> int | None:
        """Return how many tokens a layer (from 0) sees back, itself included; None: all."""
        every = self.full_attention_every
        return None if every is not None and (layer + 1) % every == 0 else self.sliding_window
