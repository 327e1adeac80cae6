import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlewick.optim import chunks as module
from candlewick.optim.chunks import chunks


@given(sizes=st.lists(st.integers(0, 30), max_size=20), limit=st.integers(1, 50))
def test_chunks_cover_all_tensors_and_are_as_large_as_allowed(sizes, limit):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_NUMBERS", limit)
        found = [sizes[part] for part in chunks(sizes)]
    assert [size for chunk in found for size in chunk] == sizes
    assert all(sum(chunk) <= limit or sum(size > 0 for size in chunk) == 1 for chunk in found)
    assert all(chunk for chunk in found)
    for chunk, after in itertools.pairwise(found):
        assert sum(chunk) + after[0] > limit


def test_chunks_join_small_tensors_and_separate_large_ones():
    assert list(chunks([1000] * 300)) == [slice(0, 300)]
    assert list(chunks([1 << 23] * 3 + [1 << 25, 5])) == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5)]
