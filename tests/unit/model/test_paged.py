import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from candlewick.config import ModelConfig
from candlewick.model.cache import ContiguousCache
from candlewick.model.paged import PagedCache
from candlewick.model.transformer import Transformer

SHAPE = (2, 3, 2, 40, 4)  # layers, rows, heads, longest, width
CPU = torch.device("cpu")


def read(cache, keys, values, count):
    """Let a cache take in the next `count` tokens of (L, B, K, S, d); return what each layer gives back."""
    start = cache.reserve(count)
    new = slice(start, start + count)
    pairs = [cache.append(i, keys[i][:, :, new], values[i][:, :, new]) for i in range(len(keys))]
    cache.length += count
    return pairs


STEPS = st.lists(st.tuples(st.sampled_from(["read", "rewind"]), st.integers(0, 12)), max_size=12)


@given(STEPS, st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_paged_cache_equals_the_contiguous_cache_bitwise(steps, page_size):
    whole = ContiguousCache(SHAPE, torch.float32, CPU)
    paged = PagedCache(SHAPE, torch.float32, CPU, page_size)
    page_size = min(page_size, SHAPE[3])
    generator = torch.Generator().manual_seed(0)
    for kind, number in steps:
        if kind == "rewind":
            for cache in (whole, paged):
                cache.rewind(min(number, cache.length))
        else:
            count = min(1 + number, SHAPE[3] - whole.length)
            if not count:
                continue
            # what is written after rewinding is something else than before
            keys, values = torch.randn(2, *SHAPE, generator=generator)
            for one, other in zip(read(whole, keys, values, count), read(paged, keys, values, count), strict=True):
                assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        assert paged.length == whole.length
        assert num_pages(paged) == SHAPE[1] * -(-paged.length // page_size)


def num_pages(cache):
    """Count the pages in use."""
    return sum(map(len, cache._pages))


def num_elements(cache):
    """Count the numbers that a cache has memory for."""
    return sum(pool.untyped_storage().nbytes() // pool.itemsize for pool in (*cache._keys, *cache._values))


def test_paged_cache_grows_by_pages_and_reuses_freed_ones():
    layers, rows, heads, longest, width = SHAPE
    page = 2 * layers * heads * 8 * width  # numbers in a page of 8 tokens
    paged, whole = PagedCache(SHAPE, torch.float32, CPU, 8), ContiguousCache(SHAPE, torch.float32, CPU)
    keys, values = torch.randn(2, *SHAPE)
    assert num_elements(paged) == 0
    for count, pages in ((5, 1), (3, 1), (1, 2), (15, 3)):
        read(paged, keys, values, count)
        assert num_elements(paged) == rows * pages * page
        assert num_pages(paged) == rows * pages
    assert (
        num_elements(paged)
        < whole.keys.numel() + whole.values.numel()
        == 2 * layers * rows * heads * longest * width
    )
    paged.rewind(9)
    assert num_pages(paged) == rows * 2
    read(paged, keys, values, 15)
    assert num_elements(paged) == rows * 3 * page  # the pool did not grow


def test_paged_cache_assigns_each_page_to_one_row_or_none():
    paged = PagedCache(SHAPE, torch.float32, CPU, 4)
    keys, values = torch.randn(2, *SHAPE)
    for count, back in ((10, 3), (9, 8), (20, 20)):
        read(paged, keys, values, count)
        paged.rewind(back)
        assert paged._page_table.tolist() == paged._pages  # no page that was given back is read
    read(paged, keys, values, 20)
    used = [page for pages in paged._pages for page in pages]
    assert sorted(used + paged._free) == list(range(len(paged._keys[0])))
    assert paged._page_table.tolist() == paged._pages


def test_paged_cache_reserve_repeated_takes_no_more_pages():
    paged = PagedCache(SHAPE, torch.float32, CPU, 4)
    assert [paged.reserve(count) for count in (9, 9, 2)] == [0, 0, 0]
    assert num_pages(paged) == 9
    keys, values = torch.randn(2, *SHAPE)
    (found, _), _ = read(paged, keys, values, 2)
    assert torch.equal(found, keys[0][:, :, :2])


def test_paged_cache_limits_the_page_size_to_the_longest_text():
    paged = PagedCache(SHAPE, torch.float32, CPU, 1 << 62)
    keys, values = torch.randn(2, *SHAPE)
    read(paged, keys, values, 1)
    assert paged.page_size == 40
    assert num_pages(paged) == 3


@pytest.mark.parametrize("page_size", [0, -1])
def test_paged_cache_refuses_a_page_size_below_one(page_size):
    with pytest.raises(ValueError, match=f"a page of the cache has at least 1 token, not {page_size}"):
        PagedCache(SHAPE, torch.float32, CPU, page_size)


def test_paged_cache_refuses_more_tokens_than_fit_and_takes_no_pages():
    paged = PagedCache(SHAPE, torch.float32, CPU, 4)
    with pytest.raises(ValueError, match="the cache holds 40 tokens: 41 more do not fit after 0"):
        paged.reserve(41)
    assert num_pages(paged) == num_elements(paged) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("page_size", [1, 5, 16])
@pytest.mark.parametrize(
    "settings",
    [{}, {"num_key_value_heads": 2}, {"num_key_value_heads": 1, "sliding_window": 6, "full_attention_every": 2}],
)
def test_logits_with_a_paged_cache_equal_those_with_a_contiguous_one_bitwise(settings, page_size, dtype, core_row):
    config = ModelConfig(
        hidden_size=32, num_layers=3, num_attention_heads=4, max_position_embeddings=64, **settings
    )
    torch.manual_seed(0)
    model = Transformer(config, 50).eval().to(dtype)
    tokens = torch.randint(50, (3, 64))
    whole, paged = model.new_cache(3, 60), model.new_cache(3, 60, page_size)
    different = 0
    with torch.no_grad():
        for count, back in ((17, 17), (1, 18), (4, 20), (7, 20), (1, 21), (30, 51), (1, 52)):
            new = tokens[:, whole.length : whole.length + count]
            one, other = (model(new, cache=cache) for cache in (whole, paged))
            different += int((one != other).sum())
            for cache in (whole, paged):
                cache.rewind(back)
    core_row("generate.cache=paged", "the contiguous cache; number of logits that differ", different, 0)
