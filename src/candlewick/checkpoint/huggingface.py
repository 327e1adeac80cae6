"""config.json: the settings of a model in the words of Hugging Face.

A model is saved as the first `model_type` that expresses every field of its ModelConfig:

    qwen3       qk_norm; windows in all layers, or in all but every n-th
    llama       no qk_norm, no windows
    mistral     no qk_norm, a window in every layer, no biases
    smollm3     no qk_norm, rope_mode off (no_rope_layers all 0)
    candlewick  anything else: our settings under that key; every other reader refuses it, where one of the
                classes above would compute nonsense

See docs/decisions/0007-identity.md. Tensors have Hugging Face's names and layouts in the model already. Only
`mlp: silu` differs: it is saved as a gated MLP whose gate is our up_proj and whose up_proj is 0 x + 1, and the key
"candlewick" tells the two apart. This key also holds `rope_mode: on_the_fly`, which changes how the model is
computed, not what. The old and the new spelling of RoPE and of the dtype are both written: readers before
transformers 5 know only the old one.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pydantic import ValidationError

from candlewick.artifacts.manifest import read_bounded
from candlewick.config import ModelConfig, NtkScaling
from candlewick.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

ARCHITECTURES = {
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "candlewick": "CandlewickForCausalLM",
}
SHARED_FIELDS = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("max_position_embeddings", "rms_norm_eps", "attention_bias", "mlp_bias", "tie_word_embeddings"),
)
"""Fields that have the same name in config.json."""
_REQUIRED = ("hidden_size", "intermediate_size", "num_attention_heads")
_NULLABLE = ("num_key_value_heads", "head_dim")  # null: derived from the others, as in ModelConfig
HF_DEFAULTS: dict[str, dict[str, Any]] = {
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32_768},
    "llama": {"max_position_embeddings": 2048},
    "mistral": {"num_key_value_heads": 8, "max_position_embeddings": 131_072, "sliding_window": 4096},
    "smollm3": {
        "num_key_value_heads": 4,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": True,
        "rope_theta": 2e6,
    },
}
"""Defaults of the classes of Hugging Face that differ from those of ModelConfig."""
CANDLEWICK_VALUES = {"mlp": "silu", "rope_mode": "on_the_fly"}
"""Values that the key "candlewick" holds beside a class of Hugging Face."""


class _Values(NamedTuple):
    """The values of a field that a class expresses: in words, and as a test of a model and its value."""

    words: str
    include: Callable[[ModelConfig, Any], bool]


def _one_of(*values: object) -> _Values:
    return _Values(" or ".join(map(json.dumps, values)), lambda _, value: value in values)


def _is_known_scaling(_: ModelConfig, scaling: Any) -> bool:
    return scaling is None or type(scaling).model_fields.keys() <= SCALING_FIELDS.get(scaling.rope_type, set())


_FIX = "use the file that the model was published with"
_CONTEXT_FIELDS = {"rope_type", "factor", "original_max_position_embeddings"}
SCALING_FIELDS = {
    "linear": {"rope_type", "factor"},
    "ntk": {"rope_type", "alpha"},  # saved as a larger rope_theta
    "yarn": _CONTEXT_FIELDS | {"beta_fast", "beta_slow", "attention_factor"},
    "llama3": _CONTEXT_FIELDS | {"low_freq_factor", "high_freq_factor"},
}
"""The fields of each scaling of the rotary positions that the classes of Hugging Face express."""
_ANY, _NONE = _Values("any value", lambda *_: True), _Values("no value", lambda *_: False)
_NUMBER = _Values("a number", lambda _, value: value is not None)
_MULTIPLE = _Values("a multiple of num_attention_heads", lambda model, size: size % model.num_attention_heads == 0)
_EVEN = _Values("an even number", lambda _, value: value % 2 == 0)  # rotated heads are even anyway
_SCALINGS = _Values("null, linear, ntk, yarn or llama3", _is_known_scaling)
_NULL, _TRUE, _FALSE, _GATED, _OFF = map(_one_of, (None, True, False, "swiglu", "off"))
_MLPS, _ROTATED = _one_of("swiglu", "silu"), _one_of("preapply", "on_the_fly")
EXPRESSIBLE: dict[str, tuple[_Values, ...]] = {
    # field                  qwen3     llama     mistral   smollm3
    "hidden_size":           (_ANY,     _MULTIPLE, _ANY,    _ANY),
    "mlp":                   (_GATED,   _MLPS,    _GATED,   _MLPS),
    "rope_mode":             (_ROTATED, _ROTATED, _ROTATED, _OFF),
    "sliding_window":        (_ANY,     _NULL,    _NUMBER,  _ANY),
    "full_attention_every":  (_ANY,     _NULL,    _NULL,    _ANY),
    "qk_norm":               (_TRUE,    _FALSE,   _FALSE,   _FALSE),
    "attention_bias":        (_FALSE,   _ANY,     _FALSE,   _ANY),
    "mlp_bias":              (_FALSE,   _ANY,     _FALSE,   _ANY),
    "head_dim":              (_ANY,     _ANY,     _ANY,     _EVEN),
    "rope_scaling":          (_SCALINGS,) * 4,
    "partial_rotary_factor": (_one_of(1.0),) * 4,
    "tie_word_embeddings":   (_ANY,) * 4,
    **dict.fromkeys(("num_layers", "num_attention_heads", "num_key_value_heads"), (_ANY,) * 4),
    **dict.fromkeys(("intermediate_size", "max_position_embeddings", "rope_theta", "rms_norm_eps"), (_ANY,) * 4),
    **dict.fromkeys(("vocab_size", "attn_dropout", "residual_dropout"), (_ANY,) * 4),  # no part of the function
}  # fmt: skip
"""The values of each field of ModelConfig that the classes of Hugging Face express."""


def _unsupported_fields(config: ModelConfig) -> dict[str, list[str]]:
    """Return for each class the fields that it does not express, with their values and those that it expresses."""
    unsupported: dict[str, list[str]] = {kind: [] for kind in ARCHITECTURES if kind != "candlewick"}
    for name in type(config).model_fields:
        value = getattr(config, name)
        for kind, values in zip(unsupported, EXPRESSIBLE.get(name, (_NONE,) * 4), strict=True):
            if not values.include(config, value):
                unsupported[kind].append(f"model.{name}={value} ({ARCHITECTURES[kind]} expresses {values.words})")
    return unsupported


def unsupported_by_transformers(config: ModelConfig) -> str | None:
    """Return the settings that the nearest classes of Hugging Face do not express; None: one expresses all."""
    unsupported = sorted(_unsupported_fields(config).values(), key=len)
    return " or ".join(", ".join(names) for names in unsupported if len(names) == len(unsupported[0])) or None


def model_type(config: ModelConfig) -> str:
    """Return the `model_type` of the first class that expresses a model, else "candlewick"."""
    return next((kind for kind, names in _unsupported_fields(config).items() if not names), "candlewick")


def to_hf_tensors(config: ModelConfig, tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Return a model's tensors by the names of its Hugging Face class; those of 0 x + 1 take no memory."""
    saved = dict(tensors)
    if config.mlp == "silu":
        for name in [name for name in tensors if ".mlp.up_proj." in name]:
            saved[name.replace("up_proj", "gate_proj")] = up = saved[name]
            saved[name] = up.new_full((), float(name.endswith("bias"))).expand(up.shape)
    return saved


def from_hf_tensors(config: ModelConfig, saved: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Undo `to_hf_tensors`. Raises CheckpointError if an up_proj of `mlp: silu` is not 0 x + 1."""
    tensors = dict(saved)
    if config.mlp == "silu":
        for name in [name for name in saved if ".mlp.up_proj." in name]:
            if not (saved[name] == float(name.endswith("bias"))).all():
                raise CheckpointError(
                    f"{name} is used, which a model with mlp: silu does not have",
                    'remove "candlewick" from config.json if it is an ordinary Llama',
                )
            del tensors[name]
            if (gate := name.replace("up_proj", "gate_proj")) in tensors:
                tensors[name] = tensors.pop(gate)
    return tensors


def to_hf_config(
    config: ModelConfig, vocab_size: int, delimiter_id: int, padding_id: int | None, end_id: int | None = None
) -> dict[str, Any]:
    """Return the content of config.json. Without an `end_id` the delimiter ends a document."""
    kind = model_type(config)
    candlewick = {"candlewick": config.model_dump(mode="json", exclude={"vocab_size"})}
    return {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        **(candlewick if kind == "candlewick" else _hf_fields(config, kind)),
        "vocab_size": vocab_size,
        "bos_token_id": delimiter_id,
        "eos_token_id": delimiter_id if end_id is None else end_id,
        "pad_token_id": padding_id,
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def _hf_fields(config: ModelConfig, kind: str) -> dict[str, Any]:
    """Return the fields of config.json that a class of Hugging Face computes with."""
    theta, scaling = config.effective_theta, config.rope_scaling
    rope = {"rope_type": "default"}
    if scaling is not None and not isinstance(scaling, NtkScaling):
        rope = scaling.model_dump(mode="json", exclude_none=True)
    fields = {
        **{name: getattr(config, name) for name in SHARED_FIELDS},
        "num_hidden_layers": config.num_layers,
        "rope_theta": theta,
        "rope_parameters": {**rope, "rope_theta": theta},
        "rope_scaling": None if rope["rope_type"] == "default" else rope,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "sliding_window": config.sliding_window,
    }
    if kind in ("qwen3", "smollm3"):
        fields["use_sliding_window"] = config.sliding_window is not None
        if config.sliding_window is not None:
            fields["layer_types"] = _layer_types(config.num_layers, config.full_attention_every)
            fields["max_window_layers"] = 0  # for readers without layer_types: no layer lacks the window
    if kind == "smollm3":
        fields["no_rope_layers"] = [0] * config.num_layers
    if values := {name: value for name, value in CANDLEWICK_VALUES.items() if getattr(config, name) == value}:
        fields["candlewick"] = values
    return fields


def from_hf_config(path: Path) -> tuple[ModelConfig, int]:
    """Read config.json: the model's settings and its vocabulary rows. Raises CheckpointError."""
    fields = read_json_file(path, "model configuration")
    kind = fields.get("model_type")
    if kind not in tuple(ARCHITECTURES):
        known = ", ".join(ARCHITECTURES)
        raise CheckpointError(
            f"{path} describes a {kind!r} model; candlewick reads {known}", "convert it to one of these"
        )
    try:
        settings = fields["candlewick"] if kind == "candlewick" else _settings(kind, fields)
        config = ModelConfig.model_validate(settings)
        vocab_size = fields["vocab_size"]
    except _UnsupportedSetting as error:
        raise CheckpointError(
            f"{path} has {error}, which this version does not read", "use a model without it"
        ) from None
    except (KeyError, ValidationError) as error:
        raise CheckpointError(f"{path} lacks or contradicts a setting: {str(error)[:200]}", _FIX) from None
    if type(vocab_size) is not int or vocab_size < 1:
        raise CheckpointError(f"{path} has vocab_size {vocab_size!r}", _FIX)
    return config, vocab_size


def read_json_file(path: Path, name: str) -> dict[str, Any]:
    """Read the object in a small file; `name` is what it is. Raises CheckpointError."""
    try:
        raw: object = json.loads(read_bounded(path), parse_int=_parse_int)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", _FIX) from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} is not a {name}", _FIX)
    return cast(dict[str, Any], raw)


class _UnsupportedSetting(Exception):
    """A setting, name and value, with which the same tensors are another model."""

    def __str__(self) -> str:
        name, value = self.args
        return f"{name} = {value!r:.80}"


def _parse_int(digits: str) -> int:
    if len(digits) > 18:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _settings(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of ModelConfig that the fields of a Hugging Face class mean."""
    if fields.get("hidden_act", "silu") != "silu":
        raise _UnsupportedSetting("hidden_act", fields["hidden_act"])
    extra = fields.get("candlewick", {})
    if not (isinstance(extra, dict) and cast(dict[str, Any], extra).items() <= CANDLEWICK_VALUES.items()):
        raise _UnsupportedSetting("candlewick", extra)
    common = {"rope_theta": 10_000.0, "tie_word_embeddings": False, "mlp_bias": False}
    fields = {**common, **HF_DEFAULTS[kind], **fields}
    shared = {name: fields[name] for name in SHARED_FIELDS if name in fields or name in _REQUIRED}
    return {
        **{name: value for name, value in shared.items() if value is not None or name not in _NULLABLE},
        "num_layers": fields["num_hidden_layers"],
        "qk_norm": kind == "qwen3",
        **extra,
        **_rope_settings(kind, fields),
        **_window_settings(kind, fields),
    }


def _rope_settings(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the rotary positions. transformers, too, reads `rope_scaling` first."""
    name = "rope_scaling" if fields.get("rope_scaling") else "rope_parameters"
    rope: Any = fields.get(name) or {}
    if not isinstance(rope, dict):
        raise _UnsupportedSetting(name, rope)
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type not in ("default", "linear", "yarn", "llama3"):
        raise _UnsupportedSetting(name, rope)
    partial = rope.get("partial_rotary_factor", fields.get("partial_rotary_factor"))
    if partial not in (None, 1):
        raise _UnsupportedSetting("partial_rotary_factor", partial)
    settings: dict[str, Any] = {"rope_theta": rope.get("rope_theta", fields["rope_theta"])}
    if rope_type != "default":
        common = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
        scaling = {key: value for key, value in rope.items() if key not in common and value is not None}
        if rope_type != "linear":
            scaling.setdefault("original_max_position_embeddings", fields["max_position_embeddings"])
        settings["rope_scaling"] = {"rope_type": rope_type, **scaling}
    if kind == "smollm3":
        flags = fields.get("no_rope_layers")  # 1: the layer rotates
        if not isinstance(flags, list) or len(flags) != fields["num_hidden_layers"]:
            raise _UnsupportedSetting("no_rope_layers", flags)
        if flags not in ([0] * len(flags), [1] * len(flags)):
            raise _UnsupportedSetting("no_rope_layers", flags)
        settings["rope_mode"] = "preapply" if 1 in flags else "off"
    return settings


def _window_settings(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the sliding window of all layers, or of all but every n-th."""
    layers, num_layers = fields.get("layer_types"), fields["num_hidden_layers"]
    is_windowed = kind == "mistral" or (kind != "llama" and fields.get("use_sliding_window"))
    window = fields.get("sliding_window") if is_windowed else None
    if layers is None or kind == "mistral":  # the class of mistral does not read layer_types
        if window is not None and kind != "mistral" and fields.get("max_window_layers") != 0:
            raise _UnsupportedSetting("max_window_layers", fields.get("max_window_layers"))
        return {"sliding_window": window}
    if not isinstance(layers, list) or len(layers) != num_layers:
        raise _UnsupportedSetting("layer_types", layers)
    every = layers.index("full_attention") + 1 if "full_attention" in layers else None
    if layers != _layer_types(num_layers, every) or (window is None and every != 1):
        raise _UnsupportedSetting("layer_types", layers)
    return {} if every == 1 else {"sliding_window": window, "full_attention_every": every}


def _layer_types(num_layers: int, full_attention_every: int | None) -> list[str]:
    every = full_attention_every or num_layers + 1
    return ["sliding_attention" if layer % every else "full_attention" for layer in range(1, num_layers + 1)]
