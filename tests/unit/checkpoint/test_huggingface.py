import json

import pytest
from transformers import AutoConfig, LlamaConfig, Qwen3Config

from candlewick.checkpoint.huggingface import from_hugging_face, generation_config, to_hugging_face
from candlewick.config import ModelConfig
from candlewick.errors import CheckpointError

SHAPES = [
    ModelConfig(),
    ModelConfig(hidden_size=96, num_attention_heads=4, num_key_value_heads=2, head_dim=32, rope_theta=5e5),
    ModelConfig(qk_norm=False, attention_bias=True, mlp_bias=True, tie_word_embeddings=False, rms_norm_eps=1e-5),
]


@pytest.mark.parametrize("config", SHAPES)
def test_a_shape_survives_the_round_trip(tmp_path, config):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_hugging_face(config, 1024, 0, 1)))
    assert from_hugging_face(path) == (config, 1024)


@pytest.mark.parametrize("config", SHAPES)
def test_transformers_reads_the_same_shape(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(to_hugging_face(config, 1024, 0, 1)))
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert theirs.model_type == ("qwen3" if config.qk_norm else "llama")
    assert theirs.num_hidden_layers == config.num_layers
    assert theirs.head_dim == config.head_dim
    assert theirs.rope_parameters["rope_theta"] == config.rope_theta
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 0, 1)


def test_generation_starts_and_ends_with_the_delimiter():
    config = generation_config(256, 0, 1)
    assert (config["bos_token_id"], config["eos_token_id"], config["max_length"]) == (0, 0, 256)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "describes a 'gpt2' model"),
        (
            {"rope_scaling": {"type": "linear"}},
            "rope_scaling = {'type': 'linear'}, which this version does not read",
        ),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters = "),
        ({"rope_parameters": {"type": "yarn"}}, "rope_parameters = "),
        ({"rope_parameters": [1]}, r"rope_parameters = \[1\]"),
        ({"rope_parameters": None, "rope_theta": "x"}, "rope_theta"),
        ({"rope_parameters": {"rope_theta": None}}, "rope_theta"),
        ({"rope_parameters": {"rope_theta": 10**400}}, "cannot be read: a number of 401 digits"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window = True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types = "),
        ({"layer_types": 5}, "layer_types = 5"),
        ({"model_type": []}, r"describes a \[\] model"),
        ({"max_position_embeddings": 10**13}, "10,000,000,000,000 positions"),
        ({"hidden_size": "wide"}, "lacks or contradicts"),
        ({"num_key_value_heads": 5}, "lacks or contradicts"),
        ({"vocab_size": None}, "vocab_size None"),
    ],
)
def test_a_config_that_is_not_ours_is_refused(tmp_path, change, message):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**to_hugging_face(ModelConfig(), 64, 0, None), **change}))
    with pytest.raises(CheckpointError, match=message):
        from_hugging_face(path)


@pytest.mark.parametrize("content", ["", "[]", '{"model_type": "llama"}', "[" * 100_000])
def test_a_broken_config_file_is_refused(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        from_hugging_face(path)


@pytest.mark.parametrize("kind", [Qwen3Config, LlamaConfig])
@pytest.mark.parametrize("null", [False, True])
def test_what_is_absent_or_null_is_what_transformers_takes_for_it(tmp_path, kind, null):
    raw = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 32, "num_hidden_layers": 2}
    raw |= {"model_type": kind.model_type, "vocab_size": 320}
    raw |= {"num_key_value_heads": None} if null else {}
    raw |= {"head_dim": None} if null and kind is LlamaConfig else {}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(raw))
    ours, theirs = from_hugging_face(path)[0], kind(**raw)
    names = ("num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "attention_bias")
    for name in (*names, "tie_word_embeddings"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]


@pytest.mark.parametrize("name", ["hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"])
def test_a_shape_is_not_guessed(tmp_path, name):
    raw = to_hugging_face(ModelConfig(), 64, 0, None)
    del raw[name]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=f"lacks or contradicts a setting: '{name}'"):
        from_hugging_face(tmp_path / "config.json")
