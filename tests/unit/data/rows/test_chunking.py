import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.token_splits import count_up

from candlewick.data.rows.chunking import ChunkedRows
from candlewick.data.tokens.dataset import TokenSplit


def make_split(*sizes: int, masks=None, delimiter_id=0) -> TokenSplit:
    """Tokens 0, 1, 2, ... in shards of these sizes."""
    return count_up([0, *itertools.accumulate(sizes)], masks, delimiter_id=delimiter_id)


SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=5)


@given(sizes=SIZES, length=st.integers(1, 30), data=st.data())
def test_gather_returns_circular_windows_of_tokens(sizes, length, data):
    chunked = ChunkedRows(make_split(*sizes), length)
    total = sum(sizes)
    rows = np.array(data.draw(st.lists(st.integers(0, chunked.num_rows - 1), min_size=1, max_size=10)))
    offset = data.draw(st.integers(0, length - 1))
    found = chunked.gather(rows, offset)
    assert found.shape == (len(rows), length + 1)
    for row, tokens in zip(rows.tolist(), found.tolist(), strict=True):
        first = offset + row * length
        assert tokens == [(first + j) % total for j in range(length + 1)]


@given(sizes=SIZES, length=st.integers(1, 30), offset=st.integers(0, 29))
def test_chunked_rows_have_every_token_as_a_target_once(sizes, length, offset):
    chunked = ChunkedRows(make_split(*sizes), length)
    rows, offset = np.arange(chunked.num_rows), offset % length
    found = chunked.read(rows, offset)
    counts = found.targets != -100
    assert sorted(found.targets[counts].tolist()) == list(range(sum(sizes)))
    assert ((found.tokens + 1) % sum(sizes) == found.targets)[counts].all()
    assert counts.sum() == found.num_targets


@given(sizes=SIZES, length=st.integers(1, 30), offset=st.integers(0, 29), data=st.data())
@settings(max_examples=30, deadline=None)
def test_chunked_rows_with_masks_count_every_unmasked_token_once(sizes, length, offset, data):
    masks = data.draw(st.lists(st.integers(0, 1), min_size=sum(sizes), max_size=sum(sizes)))
    chunked = ChunkedRows(make_split(*sizes, masks=masks), length)
    rows, offset = np.arange(chunked.num_rows), offset % length
    found = chunked.read(rows, offset)
    counted = sorted(found.targets[found.targets != -100].tolist())
    assert counted == [token for token, mask in enumerate(masks) if mask]
    assert found.num_targets == len(counted)


def test_chunked_rows_with_starts_mark_delimiters():
    rows = np.array([1, 0])
    found = ChunkedRows(make_split(10, delimiter_id=4), 3, needs_starts=True).read(rows, 0)
    assert found.starts is not None
    assert found.starts.tolist() == [[False, True, False], [False] * 3]
    assert ChunkedRows(make_split(10), 3).read(rows, 0).starts is None


def test_gather_accepts_an_offset_per_row():
    chunked = ChunkedRows(make_split(10), 3)
    assert chunked.gather(np.array([0, 0, 1]), np.array([0, 2, 1])).tolist() == [
        [0, 1, 2, 3],
        [2, 3, 4, 5],
        [4, 5, 6, 7],
    ]


@pytest.mark.parametrize(("tokens", "rows"), [(9, [0, 2]), (10, [0, 2])])
def test_full_rows_have_no_loss_mask(tokens, rows):
    chunked = ChunkedRows(make_split(tokens), 3)
    assert chunked.loss_mask(np.array(rows), 0) is None


def test_loss_mask_counts_only_the_remainder_of_the_last_row():
    chunked = ChunkedRows(make_split(10), 3)
    assert chunked.num_rows == 4
    rows = chunked.read(np.array([3, 1, 3]), 0)
    assert rows.targets.tolist() == [[0, -100, -100], [4, 5, 6], [0, -100, -100]]
    assert rows.tokens.tolist() == [[9, 0, 1], [3, 4, 5], [9, 0, 1]]
