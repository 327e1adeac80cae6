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
_REQUIRED = ("hidden_size", "intermediate_size", "num_attention_heads")
_NULLABLE = ("num_key_value_heads", "head_dim")  # null: derived from the others, as in ModelConfig
_ABSENT: dict[str, dict[str, Any]] = {
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32_768},
    "llama": {"max_position_embeddings": 2048},
}
"""What the classes of Hugging Face take for a setting that is absent, where ModelConfig takes something else."""
_MAX_ROTARY = 1 << 29  # numbers in each of the two rotary tables: 4 million positions of heads of 128


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
        raw: object = json.loads(path.read_bytes(), parse_int=_bounded)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} is not a model configuration")
    fields = cast(dict[str, Any], raw)
    kind = fields.get("model_type")
    if kind not in ("qwen3", "llama"):
        raise CheckpointError(f"{path} describes a {kind!r} model; candlewick reads qwen3 and llama")
    _refuse_unread(path, fields)
    rope = fields.get("rope_parameters") or {}
    given = {name: fields[name] for name in _SAME if name in fields}
    try:
        shape = {**_ABSENT[kind], "tie_word_embeddings": False, **given}
        config = ModelConfig.model_validate(
            {
                **{name: value for name, value in shape.items() if value is not None or name not in _NULLABLE},
                **{name: fields[name] for name in _REQUIRED},
                "rope_theta": rope.get("rope_theta", fields.get("rope_theta", 10_000.0)),
                "num_layers": fields["num_hidden_layers"],
                "mlp_bias": fields.get("mlp_bias", False),
                "qk_norm": kind == "qwen3",
            }
        )
        vocab_size = fields["vocab_size"]
    except (KeyError, ValidationError) as error:
        raise CheckpointError(f"{path} lacks or contradicts a setting: {str(error)[:200]}") from None
    if type(vocab_size) is not int or vocab_size < 1:
        raise CheckpointError(f"{path} has vocab_size {vocab_size!r}")
    if config.max_position_embeddings * config.head_dim > _MAX_ROTARY:
        raise CheckpointError(
            f"{path} asks for {config.max_position_embeddings:,} positions of heads of {config.head_dim:,}: "
            f"more than {_MAX_ROTARY:,} numbers in a rotary table",
            "lower max_position_embeddings",
        )
    return config, vocab_size


def _bounded(digits: str) -> int:
    if len(digits) > 18:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _refuse_unread(path: Path, fields: dict[str, Any]) -> None:
    """Raise CheckpointError for settings that would make another model of the same tensors."""
    rope = fields.get("rope_parameters") or {}
    layers = fields.get("layer_types") or []
    refused = {
        "hidden_act": fields.get("hidden_act", "silu") != "silu",
        "layer_types": not isinstance(layers, list) or any(kind != "full_attention" for kind in layers),
        "rope_parameters": not isinstance(rope, dict)
        or rope.get("rope_type", rope.get("type", "default")) != "default",
        "rope_scaling": bool(fields.get("rope_scaling")),
        "use_sliding_window": bool(fields.get("use_sliding_window")),
    }
    for name, is_refused in refused.items():
        if is_refused:
            raise CheckpointError(f"{path} has {name} = {fields[name]!r:.80}, which this version does not read")
