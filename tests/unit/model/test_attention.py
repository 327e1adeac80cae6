import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend

from candlewick.model import attention
from candlewick.model.attention import attend
from candlewick.model.documents import Documents


def reference(q, k, v, window=None, positions=None):
    """Written out: scores, the mask of what may be seen, softmax, mix."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = q @ k.mT / q.shape[-1] ** 0.5
    new, seen = scores.shape[-2:]
    distance = torch.arange(new)[:, None] + seen - new - torch.arange(seen)  # (T, S), negative: the future
    hidden = distance < 0
    if window is not None:
        hidden = hidden | (distance >= window)
    if positions is not None:
        hidden = (hidden | (distance > positions[..., None]))[:, None]
    return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v


def inputs(batch, heads, kv_heads, new, seen):
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, heads, new, 8), (batch, kv_heads, seen, 8), (batch, kv_heads, seen, 8))
    return [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]


def assert_same(ours, expected, tensors):
    """Equal in value and in the gradients of the inputs; returns the largest relative error of the value."""
    error = (ours - expected).abs().max() / expected.abs().max()
    assert error <= 1e-12
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), tensors),
        torch.autograd.grad((expected * weight).sum(), tensors),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-11)
    return error.item()


@pytest.mark.parametrize(("new", "seen"), [(1, 1), (2, 2), (7, 7), (1, 9), (2, 9), (4, 9)])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("window", [None, 1, 3, 9, 50])
def test_attend_equals_attention_written_out(core_row, new, seen, heads, kv_heads, window):
    q, k, v = inputs(2, heads, kv_heads, new, seen)
    error = assert_same(attend(q, k, v, window=window), reference(q, k, v, window), (q, k, v))
    if window == 3 and new == 7:
        core_row("model.sliding_window", "dense mask written out, float64", error, 1e-12)


def test_window_that_hides_no_key_costs_no_mask(monkeypatch):
    q, k, v = inputs(2, 4, 2, 7, 7)
    expected = attend(q, k, v)
    monkeypatch.setattr(attention, "_causal_mask", None)
    assert torch.equal(attend(q, k, v, window=7), expected)
    with pytest.raises(TypeError):
        attend(q, k, v, window=6)


def mask_of(lengths, length):
    """A batch whose rows are documents of these lengths, the last one cut at the row's end."""
    starts = torch.zeros(len(lengths), length, dtype=torch.bool)
    for row, parts in enumerate(lengths):
        places = torch.tensor([0, *parts]).cumsum(0)
        starts[row, places[places < length]] = True
    return Documents.from_starts(starts)


@given(
    st.lists(st.lists(st.integers(1, 12), max_size=6), min_size=1, max_size=3),
    st.sampled_from([None, 1, 4, 30]),
    st.sampled_from([(4, 4), (4, 2)]),
)
@settings(max_examples=30, deadline=None)
def test_attend_with_documents_equals_a_dense_mask(lengths, window, heads: tuple[int, int]):
    documents = mask_of(lengths, 13)
    q, k, v = inputs(len(lengths), *heads, 13, 13)
    expected = reference(q, k, v, window, documents.positions)
    assert_same(attend(q, k, v, window=window, documents=documents), expected, (q, k, v))


class Kernel(torch.autograd.Function):
    """Stands for flash attention over documents: the same arguments, and no more friendly to transforms."""

    @staticmethod
    def forward(ctx, *arguments):
        ctx.arguments = arguments
        return Kernel.mix(*arguments)

    @staticmethod
    def mix(q, k, v, ends, left):
        positions = torch.cat([torch.arange(n) for n in ends.diff().tolist()])
        window = None if left < 0 else left + 1
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return reference(q, k, v, window, positions[None])[0].transpose(0, 1)

    @staticmethod
    def backward(ctx, grad):
        *qkv, ends, left = ctx.arguments
        with torch.enable_grad():
            q, k, v = (x.detach().requires_grad_() for x in qkv)
            return *torch.autograd.grad(Kernel.mix(q, k, v, ends, left), (q, k, v), grad), None, None


@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("is_compiled", [False, True])
def test_varlen_kernel_gets_documents_without_padding_and_window_minus_one(monkeypatch, window, is_compiled):
    def kernel(q, k, v, ends, key_ends, longest, longest_key, *, window_size, enable_gqa):
        assert (longest, longest_key, window_size[1], enable_gqa) == (10, 10, 0, True)
        assert ends is key_ends
        assert ends.tolist() == [0, 1, 2, 3, 13, 19, 26]
        return Kernel.apply(q, k, v, ends, window_size[0])

    monkeypatch.setattr(attention, "document_kernel", lambda *_: kernel)
    torch._dynamo.reset()
    function = torch.compile(attend, backend="aot_eager", fullgraph=True) if is_compiled else attend
    documents = mask_of([[1, 1, 1, 10], [6, 7]], 13)
    q, k, v = inputs(2, 4, 2, 13, 13)
    expected = reference(q, k, v, window, documents.positions)
    assert_same(function(q, k, v, window=window, documents=documents), expected, (q, k, v))


@pytest.mark.parametrize("window", [None, 1, 4])
def test_varlen_kernel_gets_each_row_as_a_document_with_a_window(monkeypatch, window):
    calls = []

    def kernel(q, k, v, ends, key_ends, longest, longest_key, *, window_size, enable_gqa):
        calls.append((ends.tolist(), longest, window_size))
        return Kernel.apply(q, k, v, ends, window_size[0])

    monkeypatch.setattr(attention, "document_kernel", lambda *_: kernel)
    q, k, v = inputs(2, 4, 2, 13, 13)
    assert_same(attend(q, k, v, window=window), reference(q, k, v, window), (q, k, v))
    assert calls == ([] if window is None else [([0, 13, 26], 13, (window - 1, 0))])
    attend(q, k, v, window=window, dropout=0.1)
    attend(q[:, :, :4], k, v, window=window)
    attend(q[:, :, :1], k, v, window=window)
    assert len(calls) <= 1


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
def test_compiled_attend_with_documents_is_one_graph_with_the_same_result(window, heads: tuple[int, int]):
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = torch.compile(attend, backend=counter, fullgraph=True, dynamic=False)
    q, k, v = inputs(2, *heads, 13, 13)
    for lengths in ([[5, 8], [13]], [[1, 1, 1, 10], [6, 2]], [[], []]):
        documents = mask_of(lengths, 13)
        expected = reference(q, k, v, window, documents.positions)
        assert_same(compiled(q, k, v, window=window, documents=documents), expected, (q, k, v))
    assert counter.frame_count == 1


def test_attend_with_grouped_heads_equals_repeated_heads():
    q, k, v = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    repeated = attend(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))
    assert torch.allclose(attend(q, k, v), repeated, atol=1e-6)


@pytest.mark.parametrize("documents", [None, mask_of([[20, 44], [64]], 64)])
def test_attend_with_dropout_keeps_the_mean(documents):
    q, k = torch.randn(2, 2, 2, 64, 8)
    v = torch.ones(2, 2, 64, 8)
    torch.manual_seed(0)
    mixed = attend(q, k, v, dropout=0.5, documents=documents)
    assert not torch.allclose(mixed, torch.ones_like(mixed))
    assert abs(mixed.mean().item() - 1) < 0.2


def test_attend_with_dropout_equals_the_formula(core_row):
    q, k, v = inputs(2, 4, 4, 7, 7)
    weights = reference(q, k, torch.eye(7, dtype=torch.float64).expand(2, 4, 7, 7))
    torch.manual_seed(5)
    mask = F.dropout(torch.ones_like(weights), 0.4)
    torch.manual_seed(5)
    error = assert_same(attend(q, k, v, dropout=0.4), (weights * mask) @ v, (q, k, v))
    core_row("model.attn_dropout", "written out with the same random mask, float64", error, 1e-12)


def test_attend_with_dropout_stays_inside_documents():
    documents = mask_of([[3, 5]], 8)
    q, k = torch.randn(2, 1, 1, 8, 4)
    v = torch.cat((torch.full((1, 1, 3, 4), torch.inf), torch.ones(1, 1, 5, 4)), dim=2)
    v = v.nan_to_num(posinf=1e6)
    assert attend(q, k, v, dropout=0.5, documents=documents)[:, :, 3:].max() < 100


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_what_attention_makes_lies_where_its_inputs_do_whatever_the_default_device(monkeypatch, window, dropout):
    documents = mask_of([[5, 8], [13]], 13)
    q, k, v = (tensor.detach() for tensor in inputs(2, 4, 2, 13, 13))
    cases = [(q, documents), (q, None), (q[:, :, :4], None), (q[:, :, :1], None)]
    for kernel in (None, lambda q, k, v, ends, *_, **__: q if ends.device == q.device else 1 / 0):
        monkeypatch.setattr(attention, "document_kernel", lambda *_, kernel=kernel: kernel)
        for queries, own in cases:
            attention._causal_mask.cache_clear()
            with torch.device("meta"):
                mixed = attend(queries, k, v, window=window, dropout=dropout, documents=own)
            assert mixed.device == q.device
            assert mixed.shape == queries.shape
    attention._causal_mask.cache_clear()
