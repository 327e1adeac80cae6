import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from candlewick.config import ModelConfig
from candlewick.model.rope import Rotary, rotate


def make(head_dim: int, theta: float, max_positions: int, **settings) -> Rotary:
    config = ModelConfig(head_dim=head_dim, rope_theta=theta, max_position_embeddings=max_positions, **settings)
    return Rotary(config)


def turned(rotary: Rotary, x: torch.Tensor, position: int) -> torch.Tensor:
    """One vector (d,), turned as if it stood at a position."""
    return rotate(x.reshape(1, 1, 1, -1), rotary(position, 1, x.dtype)).flatten()


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=30, deadline=None)
def test_a_dot_product_depends_on_the_distance_only(first, second, shift):
    rotary = make(8, 10_000.0, 128)
    generator = torch.Generator().manual_seed(first * 61 + second)
    q, k = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    here = turned(rotary, q, first) @ turned(rotary, k, second)
    there = turned(rotary, q, first + shift) @ turned(rotary, k, second + shift)
    assert torch.allclose(here, there, atol=1e-5)


def test_each_pair_of_channels_is_a_complex_number_that_is_turned():
    rotary, position = make(6, 100.0, 16), 5
    x = torch.randn(6, dtype=torch.float64)
    angle = position * 100.0 ** (-2 * torch.arange(3, dtype=torch.float64) / 6)
    expected = torch.complex(x[:3], x[3:]) * torch.polar(torch.ones_like(angle), angle)
    assert torch.allclose(
        turned(rotary, x, position), torch.cat((expected.real, expected.imag)), rtol=0, atol=1e-6
    )


def test_position_zero_and_the_length_of_vectors_stay():
    rotary = make(8, 10_000.0, 32)
    x = torch.randn(2, 32, 3, 8)
    y = rotate(x, rotary(0, 32, x.dtype))
    assert torch.equal(y[:, 0], x[:, 0])
    assert torch.allclose(y.norm(dim=-1), x.norm(dim=-1), rtol=1e-5)


def test_the_gradient_is_the_numerical_one():
    rotation = make(4, 10_000.0, 8)(2, 3, torch.float64)
    x = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rotate(x, rotation), x)


def test_tables_are_float32_whatever_the_default_and_cast_at_the_end():
    torch.set_default_dtype(torch.float64)
    try:
        rotary = make(8, 10_000.0, 16)
    finally:
        torch.set_default_dtype(torch.float32)
    assert rotary.cos.dtype == torch.float32
    assert torch.equal(rotary.cos, make(8, 10_000.0, 16).cos)
    assert rotary(0, 4, torch.bfloat16)[0].dtype == torch.bfloat16
    assert rotary.state_dict() == {}


def test_built_on_meta_it_is_filled_after_to_empty():
    with torch.device("meta"):
        rotary = make(8, 10_000.0, 16)
    assert rotary.cos.is_meta
    rotary.to_empty(device="cpu")
    rotary.init_buffers()
    assert torch.equal(rotary.sin, make(8, 10_000.0, 16).sin)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize("settings", [{}, {"rope_scaling": YARN}, {"partial_rotary_factor": 0.5}])
def test_a_table_and_angles_made_on_the_fly_are_the_same_bits(core_row, settings):
    table, fly = (make(12, 10_000.0, 128, rope_mode=mode, **settings) for mode in ("preapply", "on_the_fly"))
    assert [name for name, _ in fly.named_buffers()] == ["frequencies"]
    positions = torch.tensor([[0, 1, 2, 0, 1], [0, 90, 127, 64, 5]], dtype=torch.int32)
    places = [(start, length, None) for start, length in ((0, 128), (0, 1), (3, 7), (100, 28), (127, 1))]
    for place in [*places, (0, 5, positions)]:
        for dtype in (torch.float32, torch.bfloat16):
            pairs = zip(table(*place[:2], dtype, place[2]), fly(*place[:2], dtype, place[2]), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
    for mode in ("preapply", "on_the_fly"):
        core_row(f"model.rope_mode={mode}", "the other of the two, float32, to the bit", 0.0, 0.0)


def test_positions_that_are_given_are_those_of_the_table():
    rotary = make(8, 10_000.0, 16)
    positions = torch.tensor([[0, 1, 2], [0, 1, 0]], dtype=torch.int32)
    cos, sin = rotary(0, 3, torch.float32, positions)
    assert cos.shape == sin.shape == (2, 3, 1, 8)
    assert torch.equal(cos, rotary.cos[positions.long()])


def test_a_part_is_rotated_and_the_rest_passes(core_row):
    rotary, position = make(12, 100.0, 16, partial_rotary_factor=0.5), 5
    x = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    angle = position * 100.0 ** (-2 * torch.arange(3, dtype=torch.float64) / 6)
    expected = torch.complex(x[:3], x[3:6]) * torch.polar(torch.ones_like(angle), angle)
    found = turned(rotary, x, position)
    assert torch.equal(found[6:], x[6:])
    error = (found[:6] - torch.cat((expected.real, expected.imag))).abs().max() / x.abs().max()
    core_row("model.partial_rotary_factor", "rotation of complex numbers, float64", error.item(), 1e-6)
    y = torch.randn(2, 3, 2, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: rotate(y, rotary(2, 3, torch.float64)), y)


def test_angles_on_the_fly_are_filled_after_to_empty():
    with torch.device("meta"):
        rotary = make(8, 10_000.0, 16, rope_mode="on_the_fly")
    rotary.to_empty(device="cpu")
    rotary.init_buffers()
    expected = make(8, 10_000.0, 16)
    assert torch.equal(rotary(3, 4, torch.float32)[1], expected(3, 4, torch.float32)[1])
