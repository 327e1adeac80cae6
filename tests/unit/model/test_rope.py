import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from candlewick.model.rope import Rotary, rotate


def turned(rotary: Rotary, x: torch.Tensor, position: int) -> torch.Tensor:
    """One vector (d,), turned as if it stood at a position."""
    return rotate(x.reshape(1, 1, 1, -1), rotary(position, 1, x.dtype)).flatten()


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=30, deadline=None)
def test_a_dot_product_depends_on_the_distance_only(first, second, shift):
    rotary = Rotary(8, 10_000.0, 128)
    generator = torch.Generator().manual_seed(first * 61 + second)
    q, k = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    here = turned(rotary, q, first) @ turned(rotary, k, second)
    there = turned(rotary, q, first + shift) @ turned(rotary, k, second + shift)
    assert torch.allclose(here, there, atol=1e-5)


def test_each_pair_of_channels_is_a_complex_number_that_is_turned():
    rotary, position = Rotary(6, 100.0, 16), 5
    x = torch.randn(6, dtype=torch.float64)
    angle = position * 100.0 ** (-2 * torch.arange(3, dtype=torch.float64) / 6)
    expected = torch.complex(x[:3], x[3:]) * torch.polar(torch.ones_like(angle), angle)
    assert torch.allclose(
        turned(rotary, x, position), torch.cat((expected.real, expected.imag)), rtol=0, atol=1e-6
    )


def test_position_zero_and_the_length_of_vectors_stay():
    rotary = Rotary(8, 10_000.0, 32)
    x = torch.randn(2, 32, 3, 8)
    y = rotate(x, rotary(0, 32, x.dtype))
    assert torch.equal(y[:, 0], x[:, 0])
    assert torch.allclose(y.norm(dim=-1), x.norm(dim=-1), rtol=1e-5)


def test_the_gradient_is_the_numerical_one():
    rotation = Rotary(4, 10_000.0, 8)(2, 3, torch.float64)
    x = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rotate(x, rotation), x)


def test_tables_are_float32_whatever_the_default_and_cast_at_the_end():
    torch.set_default_dtype(torch.float64)
    try:
        rotary = Rotary(8, 10_000.0, 16)
    finally:
        torch.set_default_dtype(torch.float32)
    assert rotary.cos.dtype == torch.float32
    assert torch.equal(rotary.cos, Rotary(8, 10_000.0, 16).cos)
    assert rotary(0, 4, torch.bfloat16)[0].dtype == torch.bfloat16
    assert rotary.state_dict() == {}


def test_built_on_meta_it_is_filled_after_to_empty():
    with torch.device("meta"):
        rotary = Rotary(8, 10_000.0, 16)
    assert rotary.cos.is_meta
    rotary.to_empty(device="cpu")
    rotary.init_buffers()
    assert torch.equal(rotary.sin, Rotary(8, 10_000.0, 16).sin)


def test_beyond_the_table_is_an_error():
    with pytest.raises(ValueError, match="position 16 is beyond max_position_embeddings=16"):
        Rotary(8, 10_000.0, 16)(10, 7, torch.float32)
