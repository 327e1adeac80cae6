import json
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.model_variants import VARIANTS
from transformers import AutoConfig, LlamaConfig, MistralConfig, Qwen3Config, SmolLM3Config

from candlewick.checkpoint.huggingface import (
    EXPRESSIBLE,
    SCALING_FIELDS,
    from_hf_config,
    from_hf_tensors,
    model_type,
    to_hf_config,
    to_hf_tensors,
    unsupported_by_transformers,
)
from candlewick.config import LinearScaling, Llama3Scaling, ModelConfig, NtkScaling, YarnScaling
from candlewick.errors import CheckpointError

LINEAR = LinearScaling(rope_type="linear", factor=2.0)
LLAMA3 = Llama3Scaling(rope_type="llama3", factor=8.0, original_max_position_embeddings=64)
YARN = YarnScaling(rope_type="yarn", factor=4.0, original_max_position_embeddings=128, attention_factor=1.5)
SHAPES = [
    ("qwen3", ModelConfig()),
    (
        "qwen3",
        ModelConfig(hidden_size=96, num_attention_heads=4, num_key_value_heads=2, head_dim=32, rope_theta=5e5),
    ),
    ("qwen3", ModelConfig(rope_scaling=YARN, sliding_window=7)),
    ("qwen3", ModelConfig(rope_mode="on_the_fly", max_position_embeddings=1 << 30)),
    ("qwen3", ModelConfig(max_position_embeddings=10**13)),
    ("llama", ModelConfig(qk_norm=False, mlp="silu", rope_mode="on_the_fly")),
    ("qwen3", ModelConfig(rope_scaling=LINEAR, sliding_window=7, full_attention_every=3)),
    (
        "llama",
        ModelConfig(
            qk_norm=False, attention_bias=True, mlp_bias=True, tie_word_embeddings=False, rms_norm_eps=1e-5
        ),
    ),
    ("llama", ModelConfig(qk_norm=False, mlp="silu", rope_scaling=LLAMA3)),
    ("mistral", ModelConfig(qk_norm=False, sliding_window=9, rope_scaling=LINEAR)),
    ("smollm3", ModelConfig(qk_norm=False, rope_mode="off", attention_bias=True)),
    ("smollm3", ModelConfig(qk_norm=False, rope_mode="off", mlp="silu", sliding_window=5, full_attention_every=2)),
    ("smollm3", ModelConfig(qk_norm=False, rope_mode="off", num_layers=1)),
    ("qwen3", ModelConfig(num_layers=1, sliding_window=7)),
    ("candlewick", ModelConfig(partial_rotary_factor=0.5, rope_scaling=NtkScaling(rope_type="ntk", alpha=2.0))),
    ("candlewick", ModelConfig(rope_mode="off", attn_dropout=0.1)),
    ("candlewick", ModelConfig(qk_norm=False, sliding_window=9, full_attention_every=2)),
    ("candlewick", ModelConfig(qk_norm=False, sliding_window=9, mlp="silu")),
    ("candlewick", ModelConfig(qk_norm=False, hidden_size=40, num_attention_heads=3, head_dim=8)),
    ("candlewick", ModelConfig(qk_norm=False, rope_mode="off", head_dim=5)),
]


@pytest.mark.parametrize(("kind", "config"), SHAPES)
def test_config_json_of_each_model_type_survives_the_round_trip(tmp_path, kind, config):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_hf_config(config, 1024, 0, 1)))
    assert from_hf_config(path) == (config, 1024)
    assert model_type(config) == kind
    assert (unsupported_by_transformers(config) is None) == (kind != "candlewick")


def test_every_field_of_the_model_is_listed_by_name():
    unlisted = ModelConfig.model_fields.keys() - EXPRESSIBLE.keys()
    assert not unlisted, f"checkpoint/huggingface.py: EXPRESSIBLE does not list {', '.join(sorted(unlisted))}"
    gone = EXPRESSIBLE.keys() - ModelConfig.model_fields.keys()
    assert not gone, f"checkpoint/huggingface.py: EXPRESSIBLE lists {', '.join(sorted(gone))}, which do not exist"
    untested = ModelConfig.model_fields.keys() ^ VARIANTS.keys()
    assert not untested, f"tests/model_variants.py: VARIANTS has no row for {', '.join(sorted(untested))}"


@pytest.mark.parametrize("scaling", [LinearScaling, NtkScaling, YarnScaling, Llama3Scaling])
def test_every_field_of_a_scaling_is_listed_by_name(scaling):
    (kind,) = get_args(scaling.model_fields["rope_type"].annotation)
    unlisted = scaling.model_fields.keys() - SCALING_FIELDS[kind]
    assert not unlisted, f"checkpoint/huggingface.py: SCALING_FIELDS does not list {kind}: {', '.join(unlisted)}"


class AlibiModel(ModelConfig):
    alibi: bool = False


class MscaleYarn(YarnScaling):
    mscale: float = 1.0


@pytest.mark.parametrize("changes", [{}, {"qk_norm": False}, {"qk_norm": False, "rope_mode": "off"}])
@pytest.mark.parametrize("alibi", [False, True])
def test_model_with_an_unlisted_field_is_saved_as_candlewick_at_every_value(changes, alibi):
    config = AlibiModel(**changes, alibi=alibi)
    assert model_type(config) == "candlewick"
    assert f"model.alibi={alibi}" in (unsupported_by_transformers(config) or "")
    assert to_hf_config(config, 64, 0, None)["candlewick"]["alibi"] is alibi


def test_model_with_an_unlisted_rope_scaling_is_saved_as_candlewick():
    for changes in (
        {"rope_scaling": MscaleYarn(rope_type="yarn", factor=2.0, original_max_position_embeddings=8)},
        {
            "rope_scaling": LinearScaling(rope_type="linear", factor=2.0).model_copy(
                update={"rope_type": "dynamic"}
            )
        },
    ):
        config = ModelConfig().model_copy(update=changes)
        assert model_type(config) == "candlewick"
        assert (unsupported_by_transformers(config) or "").startswith("model.rope_scaling=")


@pytest.mark.parametrize("field", ["mlp", "rope_mode"])
@pytest.mark.parametrize("changes", [{}, {"qk_norm": False}, {"qk_norm": False, "rope_mode": "off"}])
def test_model_with_an_unlisted_literal_is_saved_as_candlewick(field, changes):
    assert model_type(ModelConfig(**changes).model_copy(update={field: "new"})) == "candlewick"


def test_expressible_lists_the_values_of_every_literal_field():
    of_words = {name for name, info in ModelConfig.model_fields.items() if get_origin(info.annotation) is Literal}
    assert of_words == {"mlp", "rope_mode"}, "name the new field here and in the test above"
    assert not any(values.include(ModelConfig(), "new") for name in of_words for values in EXPRESSIBLE[name])


@st.composite
def models(draw):
    """Models of any combination of the values in VARIANTS; what ModelConfig refuses is left out."""
    changes = {}
    for field in draw(st.sets(st.sampled_from(sorted(VARIANTS)))):
        changes |= draw(st.sampled_from(VARIANTS[field]))
    if draw(st.booleans()):
        changes["qk_norm"] = False
    try:
        return ModelConfig.model_validate(changes)
    except ValidationError:
        assume(False)


@given(models())
def test_config_json_of_any_model_is_read_back_equal(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(json.dumps(to_hf_config(config, 64, 0, None)))
    expected = config.model_dump() | {"vocab_size": None}
    if model_type(config) != "candlewick":
        expected |= {"attn_dropout": 0.0, "residual_dropout": 0.0}
        if isinstance(config.rope_scaling, NtkScaling):
            expected |= {"rope_theta": config.effective_theta, "rope_scaling": None}
    assert from_hf_config(path) == (ModelConfig.model_validate(expected), 64)


@pytest.mark.parametrize(("kind", "config"), [shape for shape in SHAPES if shape[0] != "candlewick"])
def test_transformers_reads_the_same_shape(tmp_path, kind, config):
    (tmp_path / "config.json").write_text(json.dumps(to_hf_config(config, 1024, 0, 1)))
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert theirs.model_type == kind
    assert theirs.num_hidden_layers == config.num_layers
    assert theirs.head_dim == config.head_dim
    assert theirs.rope_parameters["rope_theta"] == config.rope_theta
    assert theirs.rope_parameters["rope_type"] == (
        "default" if config.rope_scaling is None else config.rope_scaling.rope_type
    )
    assert getattr(theirs, "sliding_window", None) == config.sliding_window
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 0, 1)
    default = type(theirs)()
    for name in ("attention_dropout", "initializer_range", "use_cache", "hidden_act"):
        assert getattr(theirs, name) == getattr(default, name)


def test_transformers_refuses_a_model_saved_as_candlewick(tmp_path):
    config = ModelConfig(partial_rotary_factor=0.5)
    (tmp_path / "config.json").write_text(json.dumps(to_hf_config(config, 1024, 0, 1)))
    assert (
        unsupported_by_transformers(config) == "model.partial_rotary_factor=0.5 (Qwen3ForCausalLM expresses 1.0)"
    )
    with pytest.raises(ValueError, match="candlewick"):
        AutoConfig.from_pretrained(tmp_path)


def test_ntk_scaling_is_saved_as_its_effective_rope_theta(tmp_path):
    config = ModelConfig(head_dim=8, rope_scaling=NtkScaling(rope_type="ntk", alpha=4.0))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_hf_config(config, 1024, 0, 1)))
    found = from_hf_config(path)[0]
    assert found == ModelConfig(head_dim=8, rope_theta=10_000.0 * 4.0 ** (8 / 6))


def test_ungated_mlp_is_saved_as_a_gated_mlp_with_a_constant_up_projection():
    config = ModelConfig(qk_norm=False, mlp="silu")
    up = {
        "model.layers.0.mlp.up_proj.weight": torch.randn(6, 4),
        "model.layers.0.mlp.up_proj.bias": torch.randn(6),
    }
    tensors = {**up, "model.norm.weight": torch.ones(4)}
    saved = to_hf_tensors(config, tensors)
    assert torch.equal(saved["model.layers.0.mlp.gate_proj.weight"], up["model.layers.0.mlp.up_proj.weight"])
    assert torch.equal(saved["model.layers.0.mlp.up_proj.weight"], torch.zeros(6, 4))
    assert torch.equal(saved["model.layers.0.mlp.up_proj.bias"], torch.ones(6))
    assert saved["model.layers.0.mlp.up_proj.weight"].untyped_storage().nbytes() == 4
    back = from_hf_tensors(config, saved)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert from_hf_tensors(config, {n: t for n, t in saved.items() if "gate" not in n}).keys() == {
        "model.norm.weight"
    }
    saved["model.layers.0.mlp.up_proj.bias"] = torch.tensor([1.0] * 5 + [0.5])
    with pytest.raises(CheckpointError, match=r"model\.layers\.0\.mlp\.up_proj\.bias is used"):
        from_hf_tensors(config, saved)
    gated = ModelConfig()
    assert from_hf_tensors(gated, tensors) == to_hf_tensors(gated, tensors) == tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "describes a 'gpt2' model"),
        (
            {"rope_scaling": {"type": "dynamic"}},
            "rope_scaling = {'type': 'dynamic'}, which this version does not read",
        ),
        ({"rope_scaling": {"type": "linear"}}, "factor"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters = "),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale": 1.0}}, "mscale"),
        ({"rope_parameters": {"rope_type": "ntk", "alpha": 2.0}}, "rope_parameters = "),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"rope_parameters": [1]}, r"rope_parameters = \[1\]"),
        ({"rope_parameters": None, "rope_theta": "x"}, "rope_theta"),
        ({"rope_parameters": {"rope_theta": None}}, "rope_theta"),
        ({"rope_parameters": {"rope_theta": 10**400}}, "cannot be read: a number of 401 digits"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"use_sliding_window": True, "sliding_window": 4}, "max_window_layers = None"),
        ({"use_sliding_window": True, "sliding_window": 4, "max_window_layers": "x"}, "max_window_layers = 'x'"),
        ({"layer_types": ["full_attention", *["sliding_attention"] * 5]}, "layer_types = "),
        (
            {
                "use_sliding_window": True,
                "sliding_window": 4,
                "layer_types": ["full_attention", *["sliding_attention"] * 5],
            },
            "layer_types = ",
        ),
        ({"layer_types": ["full_attention"]}, "layer_types = "),
        ({"layer_types": ["sliding_attention"] * 6}, "layer_types = "),
        (
            {"use_sliding_window": True, "sliding_window": 4, "layer_types": ["chunked_attention"] * 6},
            "layer_types = ",
        ),
        ({"layer_types": 5}, "layer_types = 5"),
        ({"model_type": "mistral", "sliding_window": "x"}, "sliding_window"),
        ({"model_type": "smollm3"}, "no_rope_layers = None"),
        ({"model_type": "smollm3", "no_rope_layers": [0, 1, 0, 1, 0, 1]}, "no_rope_layers = "),
        ({"model_type": "smollm3", "no_rope_layers": [2] * 6}, "no_rope_layers = "),
        ({"model_type": "smollm3", "no_rope_layers": [1] * 5}, "no_rope_layers = "),
        ({"model_type": "candlewick"}, "lacks or contradicts"),
        ({"candlewick": [1]}, r"candlewick = \[1\]"),
        ({"candlewick": {"mlp": "gelu"}}, "candlewick = {'mlp': 'gelu'}"),
        ({"candlewick": {"rope_mode": "off"}}, "candlewick = {'rope_mode': 'off'}"),
        ({"candlewick": {"qk_norm": False}}, "candlewick = {'qk_norm': False}"),
        ({"model_type": []}, r"describes a \[\] model"),
        ({"hidden_size": "wide"}, "lacks or contradicts"),
        ({"num_key_value_heads": 5}, "lacks or contradicts"),
        ({"vocab_size": None}, "vocab_size None"),
        ({"vocab_size": 0}, "vocab_size 0"),
        ({"max_position_embeddings": 10**18}, "cannot be read: a number of 19 digits"),
    ],
)
def test_config_json_of_an_unsupported_model_is_refused(tmp_path, change, message):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**to_hf_config(ModelConfig(), 64, 0, None), **change}))
    with pytest.raises(CheckpointError, match=message):
        from_hf_config(path)


@pytest.mark.parametrize("content", ["", "[]", '{"model_type": "llama"}', "[" * 100_000])
def test_broken_config_json_is_refused(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        from_hf_config(path)


@pytest.mark.parametrize("kind", [Qwen3Config, LlamaConfig, MistralConfig, SmolLM3Config])
@pytest.mark.parametrize("null", [False, True])
def test_absent_or_null_fields_get_the_defaults_of_transformers(tmp_path, kind, null):
    raw: dict[str, Any] = {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_attention_heads": 32,
        "num_hidden_layers": 2,
    }
    raw |= {"model_type": kind.model_type, "vocab_size": 320}
    raw |= {"no_rope_layers": [1, 1]} if kind is SmolLM3Config else {}
    raw |= {"num_key_value_heads": None} if null and kind is not MistralConfig else {}
    raw |= {"head_dim": None} if null and kind is not Qwen3Config else {}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(raw))
    ours, theirs = from_hf_config(path)[0], kind(**raw)
    names = ("num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings")
    for name in names:
        value = getattr(theirs, name, None)
        assert getattr(ours, name) == (256 // 32 if value is None else value)  # SmolLM3Config has no head_dim
    assert ours.attention_bias == getattr(theirs, "attention_bias", False)
    rope: Any = theirs.rope_parameters
    assert ours.rope_theta == rope["rope_theta"]
    assert ours.sliding_window == getattr(theirs, "sliding_window", None)


@pytest.mark.parametrize("name", ["hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"])
def test_config_json_without_a_size_of_the_model_is_refused(tmp_path, name):
    raw = to_hf_config(ModelConfig(), 64, 0, None)
    del raw[name]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=f"lacks or contradicts a setting: '{name}'"):
        from_hf_config(tmp_path / "config.json")


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("kind", ["type", "rope_type"])
def test_rope_scaling_is_read_in_every_spelling(tmp_path, key, kind):
    raw = {
        **to_hf_config(ModelConfig(qk_norm=False), 64, 0, None),
        "rope_parameters": None,
        "rope_theta": 500.0,
    }
    scaling = {kind: "llama3", "factor": 8, "low_freq_factor": 1.0, "high_freq_factor": 2.0}
    (tmp_path / "config.json").write_text(json.dumps({**raw, key: scaling}))
    found = from_hf_config(tmp_path / "config.json")[0]
    assert found.rope_theta == 500.0
    # as transformers: what is not said is the context of the model
    assert isinstance(found.rope_scaling, Llama3Scaling)
    assert found.rope_scaling.original_max_position_embeddings == found.max_position_embeddings == 512
    assert found.rope_scaling.high_freq_factor == 2.0


def test_sliding_window_without_sliding_layers_is_dropped(tmp_path):
    raw = to_hf_config(ModelConfig(), 64, 0, None)
    raw |= {"use_sliding_window": True, "sliding_window": 4, "layer_types": ["full_attention"] * 6}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert from_hf_config(tmp_path / "config.json")[0] == ModelConfig()


def test_smollm3_with_rope_in_every_layer_is_read_as_llama(tmp_path):
    raw = to_hf_config(ModelConfig(qk_norm=False, rope_mode="off"), 64, 0, None) | {"no_rope_layers": [1] * 6}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert from_hf_config(tmp_path / "config.json")[0] == ModelConfig(qk_norm=False)


def test_candlewick_section_of_config_json_omits_vocab_size():
    raw = to_hf_config(ModelConfig(rope_mode="off", vocab_size=64), 64, 0, None)
    assert raw["model_type"] == "candlewick"
    assert raw["vocab_size"] == 64
    assert "vocab_size" not in raw["candlewick"]


@pytest.mark.parametrize(
    ("kind", "change", "windows"),
    [
        ("qwen3", {"use_sliding_window": False, "sliding_window": 4}, (None, None)),
        ("llama", {"use_sliding_window": True, "sliding_window": 4}, (None, None)),
        ("mistral", {"sliding_window": 4, "layer_types": ["full_attention"] * 6}, (4, None)),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}, (4, None)),
    ],
)
def test_windows_are_those_that_the_class_of_hugging_face_applies(tmp_path, kind, change, windows):
    raw = to_hf_config(ModelConfig(), 64, 0, None) | {"model_type": kind} | change
    (tmp_path / "config.json").write_text(json.dumps(raw))
    found = from_hf_config(tmp_path / "config.json")[0]
    assert (found.sliding_window, found.full_attention_every) == windows


@pytest.mark.parametrize("change", [{"partial_rotary_factor": 1.0}, {"vocab_size": 1}, {"rope_theta": 10**17}])
def test_values_at_the_edge_of_what_is_read_are_read(tmp_path, change):
    raw = to_hf_config(ModelConfig(), 64, 0, None) | change
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert from_hf_config(tmp_path / "config.json") == (ModelConfig(), raw["vocab_size"])


def test_readers_that_know_no_layer_types_are_told_that_every_layer_has_a_window():
    raw = to_hf_config(ModelConfig(sliding_window=7), 64, 0, None)
    assert (raw["use_sliding_window"], raw["max_window_layers"]) == (True, 0)
