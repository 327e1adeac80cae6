"""Settings of the transformer and of its rotary positions."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, model_validator

from candlewick.config.section import Count, Fraction, Positive, Section

ScalingFactor = Annotated[float, Field(ge=1.0, le=1e6)]
Rotations = Annotated[float, Field(gt=0.0, le=1e6)]
_MAX_THETA = 1e30  # so that float32 can hold it


class LinearScaling(Section):
    """Linear interpolation: divides every position by `factor` (arXiv:2306.15595)."""

    rope_type: Literal["linear"]
    factor: ScalingFactor
    """Ratio of the new context length to the original one."""


class NtkScaling(Section):
    """NTK-aware scaling: raises theta, which lowers the low frequencies most (arXiv:2309.00071 section 3.1)."""

    rope_type: Literal["ntk"]
    alpha: ScalingFactor
    """Multiplies theta by alpha^(d / (d - 2)). A checkpoint stores the product as its rope_theta."""


class YarnScaling(Section):
    """YaRN: interpolates low frequencies, keeps high ones, and sharpens attention (arXiv:2309.00071)."""

    rope_type: Literal["yarn"]
    factor: ScalingFactor
    """Ratio of the new context length to the original one."""
    original_max_position_embeddings: Count
    """Context length before scaling."""
    beta_fast: Rotations = 32.0
    """Keep frequencies that make more than this many rotations over the original context."""
    beta_slow: Rotations = 1.0
    """Interpolate frequencies that make fewer than this many rotations over the original context."""
    attention_factor: Positive | None = None
    """Factor of cosines and sines; null: 0.1 ln(factor) + 1."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.beta_fast <= self.beta_slow:
            raise ValueError(f"beta_fast={self.beta_fast} must be more than beta_slow={self.beta_slow}")
        return self


class Llama3Scaling(Section):
    """Llama 3.1: interpolates low frequencies, keeps high ones, and blends those between (arXiv:2407.21783)."""

    rope_type: Literal["llama3"]
    factor: ScalingFactor
    """Ratio of the new context length to the original one."""
    original_max_position_embeddings: Count
    """Context length before scaling."""
    low_freq_factor: Rotations = 1.0
    """Interpolate frequencies that make fewer than this many rotations over the original context."""
    high_freq_factor: Rotations = 4.0
    """Keep frequencies that make more than this many rotations; must exceed low_freq_factor."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        high, low = self.high_freq_factor, self.low_freq_factor
        if high <= low:
            raise ValueError(f"high_freq_factor={high} must be more than low_freq_factor={low}")
        return self


RopeScaling = Annotated[LinearScaling | NtkScaling | YarnScaling | Llama3Scaling, Discriminator("rope_type")]


def _default_intermediate_size(model: dict[str, Any]) -> int:
    """Return 4 D; for three products 8/3 D as a multiple of 64, which costs what two products of 4 D do."""
    hidden = model["hidden_size"]
    return 4 * hidden if model["mlp"] == "silu" else max(64, (hidden + 12) // 24 * 64)


class ModelConfig(Section):
    """The transformer. Checkpoints are saved as Qwen3 (with `qk_norm`), Llama, Mistral or SmolLM3."""

    hidden_size: Count = 384
    """Width of the residual stream (D)."""
    num_layers: Count = 6
    """Number of transformer blocks."""
    num_attention_heads: Count = 6
    """Number of query heads (H)."""
    num_key_value_heads: Count = Field(default_factory=lambda model: model["num_attention_heads"])
    """Number of key and value heads (K); default: num_attention_heads. Fewer: grouped-query attention."""
    head_dim: Count = Field(default_factory=lambda m: max(1, m["hidden_size"] // m["num_attention_heads"]))
    """Width of one head (d), even; default: hidden_size / num_attention_heads."""
    mlp: Literal["swiglu", "silu"] = "swiglu"
    """swiglu: gated, three projections; silu: `down(silu(up(x)))`, two projections with biases, saved as Llama."""
    intermediate_size: Count = Field(default_factory=_default_intermediate_size)
    """Width of the MLP (F); default: 8/3 of hidden_size with `mlp: swiglu`, 4 times with `mlp: silu`."""
    vocab_size: Count | None = None
    """Number of rows of the embedding; null: the tokenizer's size, rounded up to a multiple of 64."""
    max_position_embeddings: Count = 512
    """Maximum context length in tokens."""
    rope_mode: Literal["off", "preapply", "on_the_fly"] = "preapply"
    """Rotary positions. preapply: from a table of angles; on_the_fly: computed in every pass; off: none."""
    rope_theta: Positive = 10_000.0
    """Base of the rotary frequencies (theta)."""
    rope_scaling: RopeScaling | None = None
    """Scale the rotary positions to longer contexts by linear, ntk, yarn or llama3; null disables scaling."""
    partial_rotary_factor: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of each head that is rotated. Below 1, transformers cannot load the checkpoints."""
    sliding_window: Count | None = None
    """Number of tokens that a token attends to, itself included; null: all tokens before it too."""
    full_attention_every: Count | None = None
    """With sliding_window: every n-th layer attends to all earlier tokens; null: no layer does."""
    rms_norm_eps: Positive = 1e-6
    """Added to the mean square in every RMSNorm."""
    qk_norm: bool = True
    """Apply RMSNorm to each query and key head before RoPE. Such a model is saved as Qwen3."""
    attention_bias: bool = False
    """Add biases to the four attention projections; requires `qk_norm: false`."""
    mlp_bias: bool = Field(default_factory=lambda model: model["mlp"] == "silu")
    """Add biases to the projections of the MLP; requires `qk_norm: false`. Default: only with `mlp: silu`."""
    tie_word_embeddings: bool = True
    """Use the embedding as the output head."""
    attn_dropout: Fraction = 0.0
    """Dropout on attention weights in training. Above 0, the fast attention kernels are not used."""
    residual_dropout: Fraction = 0.0
    """Dropout in training on the output of each attention and MLP, before it is added to the residual stream."""

    @property
    def rotary_dim(self) -> int:
        """Number of rotated channels of each head."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def effective_theta(self) -> float:
        """Base of the frequencies including ntk's alpha: the rope_theta of a saved model."""
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
                f"{self.rotary_dim} channels, rotary positions need pairs; set model.partial_rotary_factor=1"
            )
        return self

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.mlp == "silu" and not self.mlp_bias:
            raise ValueError("the block of mlp: silu has biases; set model.mlp_bias=true")
        if self.qk_norm and (self.attention_bias or self.mlp_bias):
            raise ValueError(
                "biases cannot be combined with qk_norm: such a model is saved as Qwen3, whose readers load "
                "no biases; set model.qk_norm: false"
            )
        if self.rope_mode == "off" and (self.rope_scaling is not None or self.partial_rotary_factor < 1):
            raise ValueError("rope_mode: off needs model.rope_scaling=null and model.partial_rotary_factor=1")
        if isinstance(self.rope_scaling, NtkScaling) and self.rotary_dim < 4:
            raise ValueError("rope_scaling ntk needs at least 4 rotated channels per head")
        if not 1 / _MAX_THETA <= self.effective_theta <= _MAX_THETA:
            raise ValueError(f"rope_theta={self.rope_theta:g}, ntk's alpha in it, is not within 1e-30 to 1e30")
        if isinstance(self.rope_scaling, YarnScaling) and self.rope_theta <= 1:
            raise ValueError(f"rope_scaling yarn needs a rope_theta above 1, not {self.rope_theta}")
        if self.full_attention_every is not None and self.sliding_window is None:
            raise ValueError("full_attention_every needs a sliding_window; set model.full_attention_every=null")
        return self

    def window_of(self, layer: int) -> int | None:
        """Return how many tokens a token attends to in a layer (from 0), itself included; None: all before it."""
        every = self.full_attention_every
        return None if every is not None and (layer + 1) % every == 0 else self.sliding_window
