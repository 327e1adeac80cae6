"""Each field of ModelConfig with values that change the model: what every table over the fields is tested with.

A new field needs a row here. The tests that walk the rows: what transformers computes, what config.json says, how
many parameters there are, and that each has its initial value and its role.
"""

from collections.abc import Iterator
from typing import Any

import torch
from pydantic import ValidationError

from candlewick.config import ModelConfig
from candlewick.model.transformer import Transformer

Changes = dict[str, Any]

TINY: Changes = {
    "hidden_size": 16,
    "num_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
BASES: dict[str, Changes] = {
    "qwen3": {},
    "llama": {"qk_norm": False},
    "mistral": {"qk_norm": False, "sliding_window": 5},
    "smollm3": {"qk_norm": False, "rope_mode": "off"},
}
"""For each class of Hugging Face a model that it expresses; those of `VARIANTS` differ from them in one field."""
VARIANTS: dict[str, tuple[Changes, ...]] = {
    "hidden_size": ({"hidden_size": 24}, {"hidden_size": 18}),  # 18 is no multiple of the heads
    "num_layers": ({"num_layers": 3},),
    "num_attention_heads": ({"num_attention_heads": 2}, {"num_attention_heads": 6}),
    "num_key_value_heads": ({"num_key_value_heads": 1}, {"num_key_value_heads": 4}),
    "head_dim": ({"head_dim": 4}, {"head_dim": 12}, {"head_dim": 5}),
    "mlp": ({"mlp": "silu", "mlp_bias": True},),
    "intermediate_size": ({"intermediate_size": 40},),
    "vocab_size": ({"vocab_size": 64},),
    "max_position_embeddings": ({"max_position_embeddings": 48},),
    "rope_mode": tuple({"rope_mode": mode} for mode in ("off", "preapply", "on_the_fly")),
    "rope_theta": ({"rope_theta": 100.0},),
    "rope_scaling": (
        {"rope_scaling": {"rope_type": "linear", "factor": 2.5}},
        {"rope_scaling": {"rope_type": "ntk", "alpha": 3.0}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16,
                          "beta_fast": 8.0, "beta_slow": 2.0, "attention_factor": 1.5}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 4.0, "original_max_position_embeddings": 24}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 4.0, "original_max_position_embeddings": 24,
                          "low_freq_factor": 2.0, "high_freq_factor": 3.0}},
    ),
    "partial_rotary_factor": ({"partial_rotary_factor": 0.5},),
    "sliding_window": ({"sliding_window": 3}, {"sliding_window": None}),
    "full_attention_every": ({"full_attention_every": 2, "sliding_window": 5},),
    "rms_norm_eps": ({"rms_norm_eps": 0.01},),
    "qk_norm": ({"qk_norm": True}, {"qk_norm": False}),
    "attention_bias": ({"attention_bias": True},),
    "mlp_bias": ({"mlp_bias": True},),
    "tie_word_embeddings": ({"tie_word_embeddings": False},),
    "attn_dropout": ({"attn_dropout": 0.5},),
    "residual_dropout": ({"residual_dropout": 0.5},),
}  # fmt: skip
"""Values of each field, with the other settings that they need; those that a base refuses are left out for it."""
SAME_FUNCTION = {"vocab_size", "max_position_embeddings", "attn_dropout", "residual_dropout"}
"""Fields that change no logit in evaluation: rows are counted by an argument, and dropout trains only."""


def variants(field: str) -> Iterator[tuple[ModelConfig, ModelConfig]]:
    """Yield pairs of a base and the same model with another value of a field, for each base that takes it."""
    for base in BASES.values():
        for changes in VARIANTS[field]:
            try:
                changed = ModelConfig.model_validate({**TINY, **base, **changes})
            except ValidationError:
                continue
            yield ModelConfig.model_validate({**TINY, **base}), changed


def parameter_names() -> set[str]:
    """Return the names of the parameters of all models of `VARIANTS`."""
    with torch.device("meta"):
        models = [Transformer(config, 64) for field in VARIANTS for _, config in variants(field)]
    return {name for model in models for name, _ in model.named_parameters()}


def random_model(config: ModelConfig, vocab_size: int = 64) -> Transformer:
    """Return a model with weights that all matter: no zeros, no ones."""
    model = Transformer(config, vocab_size)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if "norm" in name else 0.2 * noise)
    return model.eval()
