import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model_variants import VARIANTS, variants

from candlewick.config import ModelConfig
from candlewick.model.flops import flops_per_token, model_size
from candlewick.model.transformer import Transformer


@st.composite
def configs(draw):
    kv_heads = draw(st.integers(1, 3))
    mlp = draw(st.sampled_from(["swiglu", "silu"]))
    qk_norm = mlp == "swiglu" and draw(st.booleans())
    return ModelConfig(
        hidden_size=draw(st.integers(1, 40)),
        num_layers=draw(st.integers(1, 3)),
        num_attention_heads=kv_heads * draw(st.integers(1, 3)),
        num_key_value_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 8)),
        intermediate_size=draw(st.integers(1, 50)),
        mlp=mlp,
        qk_norm=qk_norm,
        attention_bias=not qk_norm and draw(st.booleans()),
        mlp_bias=mlp == "silu" or (not qk_norm and draw(st.booleans())),
        tie_word_embeddings=draw(st.booleans()),
        max_position_embeddings=4,
    )


@given(configs(), st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_model_size_counts_the_parameters_of_the_module(config, vocab_size):
    with torch.device("meta"):
        model = Transformer(config, vocab_size)
    named = dict(model.named_parameters())
    size = model_size(config, vocab_size)
    assert size.total == sum(p.numel() for p in named.values())
    products = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    assert size.matmul == products


@pytest.mark.parametrize("field", VARIANTS)
def test_model_size_counts_the_parameters_of_every_variant(field):
    for _, config in variants(field):
        with torch.device("meta"):
            model = Transformer(config, 64)
        assert model_size(config, 64).total == sum(p.numel() for p in model.parameters()), config


def test_flops_per_token_of_a_known_shape():
    """The m3 shape of reference/performance.md: 22.9 M weights to multiply with, 144.5 MFLOP per token."""
    config = ModelConfig(hidden_size=384, num_layers=6, num_attention_heads=6, intermediate_size=1024)
    flops = flops_per_token(config, 32_000, 512)
    assert model_size(config, 32_000).matmul == 32_000 * 384 + 6 * (4 * 384**2 + 3 * 384 * 1024)
    assert flops.strict == 6 * model_size(config, 32_000).matmul + 6 * 6 * 384 * 512
    assert abs(flops.strict / 144.5e6 - 1) < 0.001
    assert flops.palm - flops.strict == 6 * 6 * 384 * 512


def test_flops_of_a_sliding_window_count_the_visible_tokens():
    config = ModelConfig(num_layers=3, sliding_window=5, full_attention_every=3)
    flops, full = flops_per_token(config, 100, 16), flops_per_token(ModelConfig(num_layers=3), 100, 16)
    width = config.num_attention_heads * config.head_dim
    seen = [sum(t + 0.5 if t < 5 else 5 for t in range(16)), sum(t + 0.5 for t in range(16))]
    expected = 12 * width * (2 * seen[0] + seen[1]) / 16
    assert abs(flops.strict - 6 * model_size(config, 100).matmul - expected) < 1
    assert full.palm - flops.palm == 12 * width * 2 * (16 - 5)
    wide = flops_per_token(ModelConfig(num_layers=3, sliding_window=16), 100, 16)
    assert (wide.strict, wide.palm) == (full.strict, full.palm)


def test_flops_module_imports_no_torch():
    code = "import sys, candlewick.model.flops; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
