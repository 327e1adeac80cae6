import json

import pytest
from pydantic import ValidationError

from candlewick.config import LinearScaling, Llama3Scaling, ModelConfig, NtkScaling, YarnScaling


def read(**model) -> ModelConfig:
    return ModelConfig.model_validate_json(json.dumps(model))


YARN = {"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("model", "derived"),
    [
        ({}, (6, 64, 1024)),
        ({"hidden_size": 128, "num_attention_heads": 4}, (4, 32, 320)),
        ({"hidden_size": 100, "num_attention_heads": 8}, (8, 12, 256)),
        ({"hidden_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2}, (2, 2, 64)),
        ({"head_dim": 128, "intermediate_size": 10}, (6, 128, 10)),
        ({"mlp": "silu", "qk_norm": False, "hidden_size": 96}, (6, 16, 384)),
    ],
)
def test_default_widths_follow_from_the_hidden_size(model, derived):
    config = read(**model)
    assert (config.num_key_value_heads, config.head_dim, config.intermediate_size) == derived


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "num_attention_heads=4 is not a multiple"),
        ({"hidden_size": 6, "num_attention_heads": 2}, "head_dim=3 is odd"),
        ({"mlp_bias": True}, "set model.qk_norm: false"),
        ({"attention_bias": True}, "set model.qk_norm: false"),
        ({"mlp": "silu"}, "set model.qk_norm: false"),
        ({"mlp": "silu", "qk_norm": False, "mlp_bias": False}, "set model.mlp_bias=true"),
        ({"partial_rotary_factor": 0.1, "head_dim": 10}, "is 1 channels, rotary positions need pairs"),
        ({"partial_rotary_factor": 0.01}, "is 0 channels"),
        ({"rope_theta": 1e31}, "rope_theta=1e+31, ntk's alpha in it, is not within"),
        ({"rope_theta": 1e-31}, "is not within 1e-30 to 1e30"),
        (
            {"rope_theta": 1e300, "head_dim": 4, "rope_scaling": {"rope_type": "ntk", "alpha": 1e6}},
            "rope_theta=1e+300, ntk's",
        ),
        ({"rope_scaling": {**YARN, "beta_fast": 1, "beta_slow": 1}}, "beta_fast=1.0 must be more than beta_slow"),
        ({"rope_scaling": YARN, "rope_theta": 1}, "rope_scaling yarn needs a rope_theta above 1"),
        ({"rope_mode": "off", "partial_rotary_factor": 0.5}, "rope_mode: off needs"),
        (
            {"rope_mode": "off", "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            "rope_mode: off needs",
        ),
        ({"head_dim": 2, "rope_scaling": {"rope_type": "ntk", "alpha": 2.0}}, "at least 4 rotated channels"),
        ({"full_attention_every": 2}, "set model.full_attention_every=null"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, "greater than or equal to 1"),
        ({"rope_scaling": {"rope_type": "dynamic"}}, "expected tags: 'linear', 'ntk', 'yarn', 'llama3'"),
        ({"rope_scaling": {"factor": 2}}, "Unable to extract tag"),
        ({"n_head": 3}, "not permitted"),
    ],
)
def test_model_section_refuses_an_impossible_shape(model, said):
    with pytest.raises(ValidationError) as caught:
        read(**model)
    assert said in str(caught.value)


def test_llama3_scaling_requires_high_above_low_frequency_factor():
    tree = {"rope_type": "llama3", "factor": 8, "original_max_position_embeddings": 64, "high_freq_factor": 1}
    with pytest.raises(ValidationError, match=r"high_freq_factor=1\.0 must be more than low_freq_factor=1\.0"):
        read(rope_scaling=tree)


@pytest.mark.parametrize(
    ("tree", "kind"),
    [
        ({"rope_type": "linear", "factor": 2}, LinearScaling),
        ({"rope_type": "ntk", "alpha": 2}, NtkScaling),
        ({"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 64}, YarnScaling),
        ({"rope_type": "llama3", "factor": 2, "original_max_position_embeddings": 64}, Llama3Scaling),
    ],
)
def test_rope_type_selects_the_scaling_class(tree, kind):
    assert type(read(rope_scaling=tree).rope_scaling) is kind


def test_biases_are_possible_without_qk_norm():
    assert read(qk_norm=False, attention_bias=True, mlp_bias=True).mlp_bias
    assert read(qk_norm=False, mlp="silu").mlp_bias
    assert not read(qk_norm=False).mlp_bias


def test_rotary_dim_is_the_configured_share_of_a_head():
    assert read(head_dim=64).rotary_dim == 64
    assert read(head_dim=64, partial_rotary_factor=0.25).rotary_dim == 16


def test_every_nth_layer_has_no_sliding_window():
    model = read(num_layers=4, sliding_window=8, full_attention_every=2)
    assert [model.window_of(layer) for layer in range(4)] == [8, None, 8, None]
    assert read(sliding_window=8).window_of(5) == 8
    assert read().window_of(0) is None


def test_head_dim_may_be_odd_without_rope():
    assert read(rope_mode="off", head_dim=3).head_dim == 3


@pytest.mark.parametrize("mode", ["off", "preapply", "on_the_fly"])
def test_max_position_embeddings_has_no_upper_bound(mode):
    assert read(rope_mode=mode, max_position_embeddings=1 << 40).max_position_embeddings == 1 << 40
