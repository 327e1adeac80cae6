import math
import re

import pytest
import torch
from tests.model_variants import parameter_names

from candlewick.config import ModelConfig
from candlewick.model.initialize import INITIALIZERS, init_tensor, initialize
from candlewick.model.transformer import Transformer
from candlewick.train.objective import NextTokenLoss


def build(vocab_size: int = 64, **settings) -> Transformer:
    model = Transformer(ModelConfig(max_position_embeddings=16, **settings), vocab_size)
    initialize(model, seed=1)
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("width", "vocab_size"), [(384, 1024), (2048, 1024), (3072, 1024), (384, 32_000)])
def test_initial_loss_equals_that_of_a_uniform_distribution(width, vocab_size, tied):
    model = build(
        vocab_size,
        hidden_size=width,
        num_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        tie_word_embeddings=tied,
    )
    tokens = torch.randint(vocab_size, (16, 17), generator=torch.Generator().manual_seed(0))
    objective = NextTokenLoss(model, num_tokens=vocab_size)
    with torch.no_grad():
        loss = objective(tokens[:, :-1], tokens[:, 1:], 1 / 256)
    assert abs(loss.item() / math.log(vocab_size) - 1) < 0.02


def test_initial_value_table_matches_every_parameter_once():
    names = parameter_names()
    for name in names:
        assert sum(bool(re.fullmatch(pattern, name)) for pattern in INITIALIZERS) == 1, name
    for pattern in INITIALIZERS:
        assert any(re.fullmatch(pattern, name) for name in names), pattern


def test_initial_weights_have_the_deviations_of_the_table():
    model = build(hidden_size=512, num_attention_heads=4, intermediate_size=256, qk_norm=False, mlp_bias=True)
    named = dict(model.named_parameters())
    first = "model.layers.0."
    assert (named[first + "input_layernorm.weight"] == 1).all()
    assert (named["model.norm.weight"] == 40 / 512).all()
    assert (named[first + "mlp.up_proj.bias"] == 0).all()
    assert (named[first + "self_attn.o_proj.weight"] == 0).all()
    assert (named[first + "mlp.down_proj.weight"] == 0).all()
    for name, deviation in (
        ("model.embed_tokens.weight", 0.1),
        (first + "self_attn.q_proj.weight", 512**-0.5),
        (first + "mlp.gate_proj.weight", 512**-0.5),
    ):
        assert abs(named[name].std().item() / deviation - 1) < 0.03
        assert abs(named[name].mean().item()) < deviation * 0.05


def test_initial_weight_depends_on_name_and_random_seed_only():
    small = dict(build(hidden_size=8, num_attention_heads=2, num_layers=1).named_parameters())
    large = dict(build(hidden_size=8, num_attention_heads=2, num_layers=3).named_parameters())
    for name, parameter in small.items():
        assert torch.equal(parameter, large[name])
    name, other = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(small[name], init_tensor(name, small[name].shape, seed=1))
    assert not torch.equal(small[name], large[other])
    assert not torch.equal(small[name], init_tensor(name, small[name].shape, seed=2))


def test_init_tensor_refuses_an_unknown_parameter_name():
    with pytest.raises(ValueError, match="parameter 'model.extra' matches 0 rows"):
        init_tensor("model.extra", torch.Size([2]), seed=0)


def test_a_parameter_is_drawn_in_float32_on_the_cpu_whatever_the_defaults():
    name, shape = "model.layers.0.mlp.up_proj.weight", torch.Size([4, 8])
    expected = init_tensor(name, shape, seed=1)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = init_tensor(name, shape, seed=1)
    finally:
        torch.set_default_dtype(torch.float32)
    assert (found.dtype, found.device) == (torch.float32, torch.device("cpu"))
    assert torch.equal(found, expected)
