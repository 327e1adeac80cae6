import pytest
import torch

from candlewick.model.cache import ContiguousCache
from candlewick.model.paged import PagedCache


def test_contiguous_cache_returns_appended_keys_and_values_in_order():
    cache = ContiguousCache((2, 1, 1, 4, 3), torch.float32, torch.device("cpu"))
    k, v = torch.randn(2, 1, 1, 4, 3)
    for start, count in ((0, 1), (1, 3)):
        assert cache.reserve(count) == start
        for index in range(2):
            piece = slice(start, start + count)
            keys, values = cache.append(index, k[:, :, piece], v[:, :, piece])
            assert torch.equal(keys, k[:, :, : start + count])
            assert torch.equal(values, v[:, :, : start + count])
        cache.length += count
    assert cache.length == cache.max_tokens == 4


def test_contiguous_cache_refuses_more_tokens_than_fit():
    cache = ContiguousCache((1, 1, 1, 4, 2), torch.float32, torch.device("cpu"))
    cache.length += 3
    with pytest.raises(ValueError, match="the cache holds 4 tokens: 2 more do not fit after 3"):
        cache.reserve(2)


@pytest.mark.parametrize("page_size", [None, 2])
def test_a_cache_lies_on_its_device_in_its_type_whatever_the_defaults(page_size):
    shape, cpu = (2, 1, 1, 8, 3), torch.device("cpu")
    k = torch.randn(1, 1, 3, 3).bfloat16()
    with torch.device("meta"):
        cache = (
            ContiguousCache(shape, torch.bfloat16, cpu)
            if page_size is None
            else PagedCache(shape, torch.bfloat16, cpu, page_size)
        )
        for _ in range(2):
            cache.reserve(3)
            keys, values = cache.append(1, k, k)
            cache.length += 3
        cache.rewind(1)
        cache.reserve(3)
        keys, values = cache.append(1, k, k)
    for found in (keys, values):
        assert (found.device, found.dtype) == (cpu, torch.bfloat16)
        assert torch.equal(found, torch.cat((k[:, :, :1], k), dim=2))
