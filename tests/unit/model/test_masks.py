import pytest
import torch

from candlewick.model import masks
from candlewick.model.attention import attend, attend_masked

SIZES = [(1, 1), (4, 4), (1, 7), (3, 7), (7, 12), (12, 12), (5, 3)]


@pytest.mark.parametrize(("new", "seen"), SIZES)
@pytest.mark.parametrize("window", [None, 1, 3, 50])
def test_causal_mask_equals_a_plain_loop(new, seen, window):
    mask = masks.causal(new, seen, window=window)
    assert mask.shape == (1, 1, new, seen)
    offset = seen - new if seen > new else 0  # queries stand at the end of the keys
    for query in range(new):
        for key in range(seen):
            distance = query + offset - key
            assert mask[0, 0, query, key] == (0 <= distance < (window or 1000))


@pytest.mark.parametrize(("new", "seen"), SIZES)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_block_mask_equals_a_plain_loop(new, seen, size):
    mask = masks.blocks(new, seen, size)
    assert mask.shape == (1, 1, new, seen)
    offset = seen - new if seen > new else 0
    for query in range(new):
        for key in range(seen):
            assert mask[0, 0, query, key] == (key // size <= (query + offset) // size)


def test_block_mask_of_size_one_is_causal_and_larger_ones_contain_it():
    assert torch.equal(masks.blocks(5, 9, 1), masks.causal(5, 9))
    assert (masks.blocks(5, 9, 3) | masks.causal(5, 9)).equal(masks.blocks(5, 9, 3))


@pytest.mark.parametrize("make", [masks.causal, lambda new, seen: masks.blocks(new, seen, 3)])
def test_mask_of_new_tokens_is_the_end_of_the_full_mask(make):
    whole = make(11, 11)
    for new in range(1, 12):
        assert torch.equal(make(new, 11), whole[:, :, -new:])


def test_padding_mask_equals_a_plain_loop_from_lengths_and_bools():
    lengths = torch.tensor([0, 3, 5])
    is_token = torch.zeros(3, 5, dtype=torch.bool)
    for row in range(3):
        for key in range(5):
            is_token[row, key] = key < int(lengths[row])
    assert torch.equal(masks.padding(lengths, 5), is_token[:, None, None])
    assert torch.equal(masks.padding(is_token), is_token[:, None, None])
    assert masks.padding(lengths, 5).shape == (3, 1, 1, 5)


@pytest.mark.parametrize(
    "arguments",
    [
        (torch.tensor([1, 2]),),
        (torch.ones(2, 3),),
        (torch.tensor([1.0]), 3),
        (torch.ones(2, 3, dtype=torch.bool), 3),
        (torch.ones(2, dtype=torch.bool), 3),
        (torch.ones(2, 3, dtype=torch.int64), 3),
    ],
)
def test_padding_mask_refuses_other_types(arguments):
    with pytest.raises(ValueError, match="padding takes bools .B, S., True where a token is; or lengths"):
        masks.padding(*arguments)


def test_block_mask_refuses_size_zero():
    with pytest.raises(ValueError, match="a block has at least 1 token, not 0"):
        masks.blocks(2, 2, 0)


def inputs(new, seen, heads=4, kv_heads=2, batch=2):
    generator = torch.Generator().manual_seed(new * 100 + seen)
    shapes = ((batch, heads, new, 8), (batch, kv_heads, seen, 8), (batch, kv_heads, seen, 8))
    q, k, v = (torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes)
    return q, k, v


def written_out(q, k, v, mask):
    """Softmax over the keys that a query sees, one query at a time; zeros where there are none."""
    batch, heads, new, width = q.shape
    mask = mask.expand(batch, heads, new, k.shape[2])
    rows = []
    for b in range(batch):
        for h in range(heads):
            group = h * k.shape[1] // heads
            for t in range(new):
                keys = mask[b, h, t].nonzero().flatten()
                weights = (k[b, group, keys] @ q[b, h, t] / width**0.5).softmax(0)
                rows.append(weights @ v[b, group, keys] if len(keys) else 0 * q[b, h, t])
    return torch.stack(rows).view(q.shape)


MASKS = {
    "causal": lambda new, seen: masks.causal(new, seen),
    "window": lambda new, seen: masks.causal(new, seen, window=2),
    "blocks": lambda new, seen: masks.blocks(new, seen, 3),
    "padding": lambda new, seen: masks.padding(torch.tensor([seen, 2]), seen),
    "causal, padding right": lambda new, seen: (
        masks.causal(new, seen) & masks.padding(torch.tensor([seen, 2]), seen)
    ),
    "causal, padding left": lambda new, seen: (  # the first tokens of row 1 see nothing
        masks.causal(new, seen) & masks.padding(torch.arange(seen) >= torch.tensor([[0], [2]]))
    ),
    "nothing but padding": lambda new, seen: masks.padding(torch.tensor([seen, 0]), seen),
    "per head": lambda new, seen: torch.arange(4)[None, :, None, None] <= torch.arange(seen),
}


@pytest.mark.parametrize(("new", "seen"), [(6, 6), (1, 6), (4, 6)])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("name", MASKS)
def test_attend_masked_and_its_gradients_equal_softmax_written_out(
    name, new, seen, heads: tuple[int, int], core_row
):
    mask = MASKS[name](new, seen)
    tensors = inputs(new, seen, *heads)
    ours, expected = attend_masked(*tensors, mask), written_out(*tensors, mask)
    error = ((ours - expected).abs().max() / expected.abs().max()).item()
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grads = (torch.autograd.grad((y * weight).sum(), tensors) for y in (ours, expected))
    for a, b in zip(*grads, strict=True):
        assert torch.isfinite(a).all()
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-11)
    core_row(f"attention mask, {name}", "softmax over what is seen, float64", error, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fully_masked_query_gives_zeros_and_no_gradient(dtype):
    q, k, v = tensors = tuple(x.detach().to(dtype).requires_grad_() for x in inputs(40, 40))
    mask = masks.padding(torch.tensor([40, 0]), 40) & masks.causal(40, 40)
    y = attend_masked(q, k, v, mask)
    assert y.dtype == dtype
    assert y[1].eq(0).all()
    assert torch.isfinite(y).all()
    for grad in torch.autograd.grad(y.float().sum(), tensors):
        assert torch.isfinite(grad).all()
        assert grad[1].eq(0).all()


@pytest.mark.parametrize("window", [None, 3])
def test_attend_masked_with_the_causal_mask_equals_attend(window):
    q, k, v = inputs(5, 9)
    found = attend_masked(q, k, v, masks.causal(5, 9, window=window))
    assert torch.allclose(found, attend(q, k, v, window=window), rtol=1e-12)


def test_attend_masked_with_right_padding_changes_no_token():
    q, k, v = inputs(8, 8)
    mask = masks.causal(8, 8) & masks.padding(torch.tensor([5, 8]), 8)
    alone = attend(q[:1, :, :5], k[:1, :, :5], v[:1, :, :5])
    assert torch.allclose(attend_masked(q, k, v, mask)[:1, :, :5], alone, rtol=1e-12)


def test_attend_masked_with_dropout_drops_visible_weights_only():
    q, k, _ = (torch.randn(1, 1, 64, 8) for _ in range(3))
    v = torch.cat((torch.full((1, 1, 32, 8), 1e6), torch.ones(1, 1, 32, 8)), dim=2)
    mask = masks.padding(torch.arange(64)[None] >= 32)
    torch.manual_seed(0)
    y = attend_masked(q, k, v, mask, dropout=0.5)
    assert y.max() < 100
    assert y.std() > 0.01


def test_attend_masked_refuses_a_mask_of_numbers():
    q, k, v = inputs(3, 3)
    with pytest.raises(ValueError, match=r"the mask is torch.float32: give bools"):
        attend_masked(q, k, v, masks.causal(3, 3).float())


def test_masks_lie_where_they_are_asked_for_or_where_their_inputs_do():
    meta, cpu = torch.device("meta"), torch.device("cpu")
    assert masks.causal(3, 5, device=meta).is_meta
    assert masks.causal(3, 5, window=2, device=meta).is_meta
    assert masks.blocks(3, 5, 2, device=meta).is_meta
    with meta:  # as the default
        for mask in (masks.causal(3, 5, device=cpu), masks.blocks(3, 5, 2, device=cpu)):
            assert mask.device == cpu
        assert masks.padding(torch.tensor([3, 5], device=cpu), 5).device == cpu
