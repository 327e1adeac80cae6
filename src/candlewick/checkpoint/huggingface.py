"""config.json and generation_config.json: the shape of a model in the words of Hugging Face.

A model with QK-norm is a Qwen3, one without is a Llama; tensor names and layouts are theirs already. Both the
old and the new spelling of the RoPE base and of the dtype are written, because readers before transformers 5
know only the old one.
"""

import json
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from candlewick.config import ModelConfig
from candlewick.errors import CheckpointError

_SAME = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rope_theta",
    "rms_norm_eps",
    "attention_bias",
    "tie_word_embeddings",
)


def to_hugging_face(
    config: ModelConfig, vocab_size: int, delimiter_id: int, padding_id: int | None
) -> dict[str, Any]:
    """Return the content of config.json."""
    specific: dict[str, Any] = (
        {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "use_sliding_window": False}
        | {"sliding_window": None}
        if config.qk_norm
        else {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "mlp_bias": config.mlp_bias}
    )
    shape = {name: getattr(config, name) for name in _SAME}
    return {
        **specific,
        **shape,
        "vocab_size": vocab_size,
        "num_hidden_layers": config.num_layers,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": delimiter_id,
        "eos_token_id": delimiter_id,
        "pad_token_id": padding_id,
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def generation_config(max_positions: int, delimiter_id: int, padding_id: int | None) -> dict[str, Any]:
    """Return the content of generation_config.json."""
    return {
        "bos_token_id": delimiter_id,
        "eos_token_id": delimiter_id,
        "pad_token_id": padding_id,
        "do_sample": True,
        "temperature": 0.8,
        "top_k": 40,
        "max_length": max_positions,
    }


def from_hugging_face(path: Path) -> tuple[ModelConfig, int]:
    """Read config.json: the model's shape and its vocabulary rows. Raises CheckpointError."""
    try:
        raw: object = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} is not a model configuration")
    fields = cast(dict[str, Any], raw)
    kind = fields.get("model_type")
    if kind not in ("qwen3", "llama"):
        raise CheckpointError(f"{path} describes a {kind!r} model; candlewick reads qwen3 and llama")
    rope = fields.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default" or fields.get("rope_scaling"):
        raise CheckpointError(f"{path} uses RoPE scaling, which this version does not read")
    try:
        config = ModelConfig.model_validate(
            {
                **{name: fields[name] for name in _SAME if name in fields},
                "rope_theta": float(rope.get("rope_theta", fields.get("rope_theta", 10_000.0))),
                "num_layers": fields["num_hidden_layers"],
                "attention_bias": fields.get("attention_bias", False),
                "mlp_bias": fields.get("mlp_bias", False),
                "qk_norm": kind == "qwen3",
            }
        )
        vocab_size = fields["vocab_size"]
    except (KeyError, ValidationError) as error:
        raise CheckpointError(f"{path} lacks or contradicts a setting: {str(error)[:200]}") from None
    if not isinstance(vocab_size, int) or vocab_size < 1:
        raise CheckpointError(f"{path} has vocab_size {vocab_size!r}")
    return config, vocab_size
