import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from candlewick.config import ModelConfig, NtkScaling
from candlewick.model.frequencies import attention_factor, inverse_frequencies

SCALINGS = [
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64},
    {"rope_type": "llama3", "factor": 3.5, "original_max_position_embeddings": 8192, "high_freq_factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    {"rope_type": "yarn", "factor": 1.0, "original_max_position_embeddings": 64},
    {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "attention_factor": 0.7},
    {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64, "beta_fast": 4.0},
    # the context is so short that both ends of the ramp fall on one pair
    {
        "rope_type": "yarn",
        "factor": 2.0,
        "original_max_position_embeddings": 2,
        "beta_fast": 2.0,
        "beta_slow": 1.9,
    },
]


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(("head_dim", "theta"), [(16, 10_000.0), (64, 500_000.0), (2, 100.0)])
def test_inverse_frequencies_equal_those_of_transformers_bitwise(scaling, head_dim, theta):
    if head_dim == 64 and scaling.get("original_max_position_embeddings") == 2:
        theta = 1e6
    ours = ModelConfig(head_dim=head_dim, rope_theta=theta, rope_scaling=scaling)
    rope = {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if scaling["rope_type"] == "llama3" else {}
    theirs = LlamaConfig(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        head_dim=head_dim,
        rope_parameters={**rope, **scaling, "rope_theta": theta},
    )
    frequencies, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](theirs)
    assert (inverse_frequencies(ours) / frequencies - 1).abs().max() == 0
    assert attention_factor(ours) == factor


def test_inverse_frequencies_without_scaling_are_powers_of_theta():
    expected = [10_000.0 ** (-2 * pair / 8) for pair in range(4)]
    found = inverse_frequencies(ModelConfig(head_dim=8))
    assert torch.allclose(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6)
    assert found.dtype == torch.float32


def test_ntk_keeps_the_highest_frequency_and_divides_the_lowest_by_alpha(core_row):
    plain = inverse_frequencies(ModelConfig(head_dim=16)).double()
    config = ModelConfig(head_dim=16, rope_scaling=NtkScaling(rope_type="ntk", alpha=4.0))
    found = inverse_frequencies(config).double()
    assert config.effective_theta == 10_000.0 * 4.0 ** (16 / 14)
    expected = [(10_000.0 * 4.0 ** (16 / 14)) ** (-2 * pair / 16) for pair in range(8)]
    error = (found / torch.tensor(expected, dtype=torch.float64) - 1).abs().max().item()
    core_row("model.rope_scaling.rope_type=ntk", "frequencies written out, float64", error, 1e-6)
    assert found[0] == plain[0] == 1
    assert math.isclose(plain[-1] / found[-1], 4.0, rel_tol=1e-6)


def test_inverse_frequencies_cover_the_rotated_channels_only():
    ntk = NtkScaling(rope_type="ntk", alpha=2.0)
    partial = ModelConfig(head_dim=16, partial_rotary_factor=0.5, rope_scaling=ntk)
    assert partial.effective_theta == 10_000.0 * 2.0 ** (8 / 6)
    assert inverse_frequencies(partial).shape == (4,)
