import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from candlewick.config import ModelConfig
from candlewick.model import rope
from candlewick.model.rope import Rotary, rotate


def make(head_dim: int, theta: float, max_positions: int, **settings) -> Rotary:
    config = ModelConfig(head_dim=head_dim, rope_theta=theta, max_position_embeddings=max_positions, **settings)
    return Rotary(config)


def turned(rotary: Rotary, x: torch.Tensor, position: int) -> torch.Tensor:
    """One vector (d,), turned as if it stood at a position."""
    return rotate(x.reshape(1, 1, 1, -1), rotary(position, 1, x.dtype)).flatten()


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=30, deadline=None)
def test_rotated_dot_product_depends_on_the_distance_only(first, second, shift):
    rotary = make(8, 10_000.0, 128)
    generator = torch.Generator().manual_seed(first * 61 + second)
    q, k = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    here = turned(rotary, q, first) @ turned(rotary, k, second)
    there = turned(rotary, q, first + shift) @ turned(rotary, k, second + shift)
    assert torch.allclose(here, there, atol=1e-5)


def test_rotate_equals_complex_multiplication_of_channel_pairs():
    rotary, position = make(6, 100.0, 16), 5
    x = torch.randn(6, dtype=torch.float64)
    angle = position * 100.0 ** (-2 * torch.arange(3, dtype=torch.float64) / 6)
    expected = torch.complex(x[:3], x[3:]) * torch.polar(torch.ones_like(angle), angle)
    assert torch.allclose(
        turned(rotary, x, position), torch.cat((expected.real, expected.imag)), rtol=0, atol=1e-6
    )


def test_rotate_keeps_position_zero_and_vector_lengths():
    rotary = make(8, 10_000.0, 32)
    x = torch.randn(2, 32, 3, 8)
    y = rotate(x, rotary(0, 32, x.dtype))
    assert torch.equal(y[:, 0], x[:, 0])
    assert torch.allclose(y.norm(dim=-1), x.norm(dim=-1), rtol=1e-5)


def test_rotate_gradient_equals_the_numerical_one():
    rotation = make(4, 10_000.0, 8)(2, 3, torch.float64)
    x = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rotate(x, rotation), x)


def test_rotary_tables_are_float32_and_cast_on_use():
    torch.set_default_dtype(torch.float64)
    try:
        rotary = make(8, 10_000.0, 16)
    finally:
        torch.set_default_dtype(torch.float32)
    assert rotary.cos.dtype == torch.float32
    assert torch.equal(rotary.cos, make(8, 10_000.0, 16).cos)
    assert rotary(0, 4, torch.bfloat16)[0].dtype == torch.bfloat16
    assert rotary.state_dict() == {}


def test_rotary_table_built_on_meta_is_filled_after_to_empty():
    with torch.device("meta"):
        rotary = make(8, 10_000.0, 16)
    assert rotary.cos.is_meta
    rotary.to_empty(device="cpu")
    rotary.init_buffers()
    assert torch.equal(rotary.sin, make(8, 10_000.0, 16).sin)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize("settings", [{}, {"rope_scaling": YARN}, {"partial_rotary_factor": 0.5}])
def test_rope_modes_preapply_and_on_the_fly_are_equal_bitwise(core_row, settings, monkeypatch):
    monkeypatch.setattr(rope, "_MIN_TABLE_POSITIONS", 5)
    table, fly = (make(12, 10_000.0, 128, rope_mode=mode, **settings) for mode in ("preapply", "on_the_fly"))
    assert [name for name, _ in fly.named_buffers()] == ["frequencies"]
    positions = torch.tensor([[0, 1, 2, 0, 1], [0, 90, 127, 64, 5]], dtype=torch.int32)
    places = [(start, length, None) for start, length in ((0, 1), (3, 7), (100, 28), (127, 1), (0, 128))]
    for place in [*places, (0, 128, positions)]:
        for dtype in (torch.float32, torch.bfloat16):
            pairs = zip(table(*place[:2], dtype, place[2]), fly(*place[:2], dtype, place[2]), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
    for mode in ("preapply", "on_the_fly"):
        core_row(f"model.rope_mode={mode}", "the other of the two, float32, to the bit", 0.0, 0.0)


def test_rotary_with_explicit_positions_reads_those_rows_of_the_table():
    rotary = make(8, 10_000.0, 16)
    positions = torch.tensor([[0, 1, 2], [0, 1, 0]], dtype=torch.int32)
    cos, sin = rotary(0, 3, torch.float32, positions)
    assert cos.shape == sin.shape == (2, 3, 1, 8)
    assert torch.equal(cos, rotary(0, 3, torch.float32)[0][positions.long()])


def test_rotary_table_of_a_huge_context_grows_with_the_positions_read():
    rotary = make(8, 10_000.0, 1 << 40)
    assert [buffer.shape for buffer in rotary.buffers()] == [(4096, 1, 4)] * 2
    for positions, length in ((4096, 4096), (4097, 8192), (20_000, 20_000), (20_001, 40_000)):
        rotary(positions - 1, 1, torch.float32)
        assert len(rotary.cos) == len(rotary.sin) == length
    assert len(make(8, 10_000.0, 100).cos) == 100


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_rotary_table_grown_by_doubling_equals_one_of_full_size(device, monkeypatch):
    with torch.device(device):
        expected = make(8, 10_000.0, 100, rope_scaling=YARN)
        monkeypatch.setattr(rope, "_MIN_TABLE_POSITIONS", 3)
        rotary = make(8, 10_000.0, 100, rope_scaling=YARN)
    for length in (2, 9, 10, 51, 100):
        rotary.reserve(length)
    assert rotary.state_dict() == {}
    for grown, table in zip(rotary.buffers(), expected.buffers(), strict=True):
        assert (grown.shape, grown.device) == (table.shape, table.device)
        assert grown.is_meta or torch.equal(grown, table)
    rotary.init_buffers()
    assert len(rotary.cos) == 3


def test_reserved_rotary_table_is_not_replaced_by_a_compiled_pass(monkeypatch):
    monkeypatch.setattr(rope, "_MIN_TABLE_POSITIONS", 4)
    rotary, eager = make(8, 10_000.0, 64), make(8, 10_000.0, 64)
    rotary.reserve(32)
    tables = dict(rotary.named_buffers())
    compiled = torch.compile(rotary, backend="eager", fullgraph=True)
    for start, length in ((0, 32), (8, 4), (31, 1)):
        for found, expected in zip(
            compiled(start, length, torch.float32), eager(start, length, torch.float32), strict=True
        ):
            assert torch.equal(found, expected)
    assert all(table is tables[name] for name, table in rotary.named_buffers())


def test_partial_rotary_factor_rotates_a_part_and_passes_the_rest(core_row):
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


def test_rotary_frequencies_built_on_meta_are_filled_after_to_empty():
    with torch.device("meta"):
        rotary = make(8, 10_000.0, 16, rope_mode="on_the_fly")
    rotary.to_empty(device="cpu")
    rotary.init_buffers()
    expected = make(8, 10_000.0, 16)
    assert torch.equal(rotary(3, 4, torch.float32)[1], expected(3, 4, torch.float32)[1])


def interleaved_loop(x, theta=10_000.0, width=None, factor=1.0):
    """Rotation of neighboring channels, GPT-J's order, one number at a time in float64: x (B, T, heads, d)."""
    y = x.double().clone()
    width = width or x.shape[-1]
    for b, t, h in itertools.product(*map(range, x.shape[:3])):
        for pair in range(width // 2):
            angle = t / factor * theta ** (-2 * pair / width)
            even, odd = x[b, t, h, 2 * pair].item(), x[b, t, h, 2 * pair + 1].item()
            y[b, t, h, 2 * pair] = even * math.cos(angle) - odd * math.sin(angle)
            y[b, t, h, 2 * pair + 1] = odd * math.cos(angle) + even * math.sin(angle)
    return y


def halves(width, head_dim):
    """The order that makes neighboring pairs half-split ones: the first of each pair, the second, the rest."""
    return torch.tensor([*range(0, width, 2), *range(1, width, 2), *range(width, head_dim)])


@pytest.mark.parametrize("mode", ["preapply", "on_the_fly"])
@pytest.mark.parametrize(
    ("head_dim", "width", "theta", "factor"),
    [(16, 16, 10_000.0, 1.0), (16, 8, 10_000.0, 1.0), (8, 8, 500.0, 1.0), (8, 8, 10_000.0, 8.0), (6, 2, 3.0, 1.0)],
)
def test_half_split_rotation_equals_interleaved_after_a_permutation(
    mode, head_dim, width, theta, factor, core_row
):
    scaling = None if factor == 1 else {"rope_type": "linear", "factor": factor}
    rotary = make(
        head_dim, theta, 48, partial_rotary_factor=width / head_dim, rope_scaling=scaling, rope_mode=mode
    )
    x = torch.randn(2, 48, 2, head_dim, generator=torch.Generator().manual_seed(0))
    order = halves(width, head_dim)
    found = rotate(x[..., order], rotary(0, 48, x.dtype))
    expected = interleaved_loop(x, theta, width, factor)[..., order]
    error = (found - expected).abs().max().item()
    core_row("model.rope_mode, interleaved", "interleaved rotation in loops, float64; absolute", error, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("mode", ["preapply", "on_the_fly"])
def test_rotate_keeps_the_dtype_and_the_unrotated_channels(mode, dtype):
    rotary = make(16, 10_000.0, 32, partial_rotary_factor=0.5, rope_mode=mode)
    x = torch.randn(1, 32, 3, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = rotate(x, rotary(0, 32, x.dtype))
    assert y.dtype == dtype
    assert torch.equal(y[..., 8:], x[..., 8:])
    assert not torch.equal(y[:, 1:, :, :8], x[:, 1:, :, :8])


@pytest.mark.parametrize("factor", [8.0, 64.0, 1e6])
@pytest.mark.parametrize("kind", ["linear", "ntk", "yarn", "llama3"])
def test_rotation_with_strong_scaling_is_finite(kind, factor):
    scaling = {"rope_type": kind, "alpha" if kind == "ntk" else "factor": factor}
    if kind in ("yarn", "llama3"):
        scaling["original_max_position_embeddings"] = 512
    rotary = make(64, 10_000.0, 4096, rope_scaling=scaling)
    y = rotate(torch.randn(1, 4096, 1, 64), rotary(0, 4096, torch.float32))
    assert torch.isfinite(y).all()


def test_rotation_reproduces_the_demo_of_transformer_candle():
    # 1 row, 2 heads, 8 tokens, 16 channels, the first 8 rotated; the published line ends with tail_preserved=true
    queries = (torch.arange(256, dtype=torch.float32) * 0.05).view(1, 2, 8, 16).transpose(1, 2)
    rotary = make(16, 10_000.0, 8, partial_rotary_factor=0.5)
    order = halves(8, 16)
    turned = rotate(queries[..., order], rotary(0, 8, torch.float32))[..., order.argsort()]
    assert torch.equal(turned[..., 8:], queries[..., 8:])
    distance = (turned - queries)[..., :8].norm().item()
    assert distance == pytest.approx(52.708580, abs=1e-5)
    exact = (interleaved_loop(queries, width=8) - queries.double()).norm().item()
    assert exact == pytest.approx(52.708584, abs=1e-6)
    without = rotate(queries, rotary(0, 8, torch.float32)) - queries
    assert without.norm().item() == pytest.approx(53.1689, abs=1e-4)  # another pairing is another model
