import pytest
import torch

from candlewick.model.attention import attend


def reference(q, k, v):
    """Written out: scores, lower right causal mask, softmax, mix."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = q @ k.mT / q.shape[-1] ** 0.5
    new, seen = scores.shape[-2:]
    future = torch.arange(seen)[None, :] > torch.arange(new)[:, None] + seen - new
    return scores.masked_fill(future, -torch.inf).softmax(-1) @ v


@pytest.mark.parametrize(("new", "seen"), [(1, 1), (7, 7), (1, 9), (4, 9)])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (3, 1)])
def test_it_is_attention_written_out(new, seen, heads, kv_heads):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, heads, new, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    k = torch.randn(2, kv_heads, seen, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    v = torch.randn(2, kv_heads, seen, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    ours, expected = attend(q, k, v), reference(q, k, v)
    assert torch.allclose(ours, expected, rtol=1e-10, atol=1e-12)
    weight = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), (q, k, v)),
        torch.autograd.grad((expected * weight).sum(), (q, k, v)),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-11)


def test_grouped_heads_are_repeated_heads():
    q, k, v = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    repeated = attend(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))
    assert torch.allclose(attend(q, k, v), repeated, atol=1e-6)


def test_dropout_drops_weights():
    q, k = torch.randn(2, 1, 2, 64, 8)
    v = torch.ones(1, 2, 64, 8)
    torch.manual_seed(0)
    mixed = attend(q, k, v, dropout=0.5)
    assert not torch.allclose(mixed, torch.ones_like(mixed))
    assert abs(mixed.mean().item() - 1) < 0.2
