import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.token_splits import make_split

from candlewick.data.rows import packing_plan
from candlewick.data.rows.chunking import ChunkedRows
from candlewick.data.rows.packing import PackedRows
from candlewick.data.rows.packing_plan import pack
from candlewick.data.tokens.dataset import TokenSplit
from candlewick.errors import DataError

DELIMITER = 60_000


def rooms_of_plain_bfd(lengths: list[int], capacity: int) -> list[int]:
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [i for i, room in enumerate(rooms) if room >= length]
        if not fitting:
            rooms.append(capacity)
            fitting = [len(rooms) - 1]
        rooms[min(fitting, key=lambda i: rooms[i])] -= length
    return sorted(rooms)


@given(st.integers(1, 40).flatmap(lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c), min_size=1))))
def test_pack_agrees_with_plain_best_fit_decreasing(case):
    capacity, lengths = case
    rows = pack(np.array(lengths, np.int32), capacity)
    used = np.bincount(rows, weights=lengths).astype(int)
    assert sorted((capacity - used).tolist()) == rooms_of_plain_bfd(lengths, capacity)


DOCUMENTS = st.lists(st.integers(1, 30), min_size=1, max_size=25)


@given(DOCUMENTS, st.lists(st.integers(0, 10_000), max_size=3), st.integers(1, 12), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_packed_rows_predict_every_next_token_once(documents, cuts, length, group):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing_plan, "_BUCKET_DOCUMENTS", group)
        view = PackedRows(make_split(documents, cuts), length)
    rows = view.read(np.arange(view.num_rows), 0)
    counted = rows.targets != -100
    total = sum(documents)
    pairs = sorted(zip(rows.tokens[counted].tolist(), rows.targets[counted].tolist(), strict=True))
    assert pairs == [(i, (i + 1) % total) for i in range(total)]
    assert (rows.tokens[~counted] == DELIMITER).all()
    assert counted.sum() == rows.num_targets == total


@given(DOCUMENTS, st.integers(2, 12))
@settings(deadline=None)
def test_packed_rows_mark_the_start_of_each_document(documents, length):
    view = PackedRows(make_split(documents), length, needs_starts=True)
    begins = {0, *np.cumsum(documents).tolist()}
    rows = view.read(np.arange(view.num_rows), 0)
    assert rows.starts is not None
    for tokens, starts in zip(rows.tokens.tolist(), rows.starts.tolist(), strict=True):
        assert starts[0]
        for (before, token), is_start in zip(itertools.pairwise(tokens), starts[1:], strict=True):
            goes_on = token == before + 1 or (token == before == DELIMITER)
            assert is_start == (token in begins or not goes_on)


def test_packed_rows_keep_short_documents_together_and_cut_long_ones():
    view = PackedRows(make_split([7, 3, 2, 4]), 5)
    rows = view.read(np.arange(view.num_rows), 0)
    d = DELIMITER
    assert sorted(rows.tokens.tolist()) == [
        [0, 1, 2, 3, 4],
        [5, 6, 7, 8, 9],
        [10, 11, d, d, d],
        [12, 13, 14, 15, d],
    ]
    mask = view.loss_mask(np.arange(view.num_rows), 0)
    assert mask is not None
    assert mask.tolist() == (rows.tokens != d).tolist()
    assert view.loss_mask(np.array([rows.tokens[:, 0].tolist().index(0)]), 0) is None
    assert rows.starts is None


def test_packed_rows_apply_masks_to_targets():
    masks = [0, 1, 1, 0, 0, 1, 1, 0, 1]
    view = PackedRows(make_split([4, 5], [3], masks), 6)
    rows = view.read(np.arange(view.num_rows), 0)
    found = dict(zip(rows.tokens.flatten().tolist(), rows.targets.flatten().tolist(), strict=True))
    assert [found[i] for i in range(9)] == [(i + 1) % 9 if masks[(i + 1) % 9] else -100 for i in range(9)]
    assert found[DELIMITER] == -100
    assert rows.num_targets == 5


def test_packing_is_deterministic_and_shuffles_rows():
    documents = np.random.default_rng(0).integers(1, 60, 400).tolist()
    rows = np.arange(PackedRows(make_split(documents), 32).num_rows)
    first, second = (PackedRows(make_split(documents), 32).read(rows, shift) for shift in (0, 3))
    assert np.array_equal(first.tokens, second.tokens)
    pieces = np.count_nonzero(np.diff(first.tokens, prepend=-2) != 1, axis=1)  # per row
    quarters = [pieces[part].mean() for part in np.array_split(np.arange(rows.size), 4)]
    assert max(quarters) < 1.5 * min(quarters)


@pytest.mark.parametrize("ends", [[3, 8], []])
def test_packing_refuses_a_last_document_without_an_end(ends):
    split = TokenSplit(
        "train", "id", (np.arange(9, dtype=np.uint16),), (0,), 9, 9, document_ends=(np.array(ends, np.uint64),)
    )
    with pytest.raises(DataError, match="the last document of train has no end"):
        PackedRows(split, 4)


def lost_or_repeated(view: PackedRows | ChunkedRows, total: int) -> int:
    rows = view.read(np.arange(view.num_rows), 0)
    counted = rows.targets != -100
    tokens, targets = (array[counted].reshape(-1).tolist() for array in (rows.tokens, rows.targets))
    found = Counter(zip(tokens, targets, strict=True))
    wanted = Counter((i, (i + 1) % total) for i in range(total))
    return ((found - wanted) + (wanted - found)).total()


@pytest.mark.parametrize(("name", "view"), [("chunk", ChunkedRows), ("bfd", PackedRows)])
def test_core_rows_hold_every_target_once(name, view, core_row):
    documents = np.random.default_rng(1).lognormal(4, 1.2, 300).astype(int).clip(1, 5000).tolist()
    error = sum(lost_or_repeated(view(make_split(documents, [999]), t), sum(documents)) for t in (16, 128, 1000))
    core_row(f"data.packing={name}", "count of every (token, target) in an epoch", error, 0)


@pytest.mark.parametrize("length", [1024, 2048])
def test_packing_of_a_realistic_dataset_pads_under_two_in_a_thousand(length):
    documents = np.random.default_rng(2).lognormal(6.05, 1.0, 60_000).astype(np.int64) + 1
    capped = np.concatenate([documents % length, np.full((documents // length).sum(), length)])
    rows = pack(capped[capped > 0].astype(np.int32), length)
    assert 1 - documents.sum() / ((rows.max() + 1) * length) < 0.002


def test_documents_are_packed_in_groups_of_two_to_the_eighteenth():
    documents = (1 << 18) + 1
    ends = np.arange(1, documents + 1, dtype=np.uint64)
    split = TokenSplit(
        "train", "id", (np.zeros(documents, np.uint16),), (0,), documents, documents, document_ends=(ends,)
    )
    view = PackedRows(split, 4)
    assert view.num_rows == (1 << 16) + 1
    mask = view.loss_mask(np.arange(view.num_rows - 2, view.num_rows), 0)
    assert mask is not None
    assert mask.sum(axis=1).tolist() == [4, 1]  # the last document is a group of its own


def test_pieces_of_one_length_fill_rows_in_their_order():
    rows = pack(np.tile(np.array([3, 2, 1], np.int32), 400), 4)
    for first in range(3):
        assert rows[first::3].tolist() == sorted(rows[first::3].tolist())
