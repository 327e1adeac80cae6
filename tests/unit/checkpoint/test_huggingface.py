import json

import pytest
from transformers import AutoConfig

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
        ({"rope_scaling": {"type": "linear"}}, "RoPE scaling"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "RoPE scaling"),
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
