import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candlewick.config import DataConfig
from candlewick.data.rows import row_order as row_order_module
from candlewick.data.rows.row_order import RowOrder
from candlewick.data.tokens.dataset import TokenSplit

T = 8


def make_split(first: int, tokens: int, dataset_id: str = "id", **fields) -> TokenSplit:
    """Tokens first, first + 1, ... in one shard, as documents of 10 tokens."""
    ends = np.array([*range(10, tokens, 10), tokens], np.uint64)
    shard = np.arange(first, first + tokens, dtype=np.uint16)
    return TokenSplit("train", dataset_id, (shard,), (0,), tokens, tokens, 60_000, (ends,), **fields)


def make_order(*sources: TokenSplit, seed=1, **data) -> RowOrder:
    config = DataConfig.model_validate(data, strict=False)
    return RowOrder(sources, config, sequence_length=T, seed=seed)


def mixture(*weights: int) -> list[dict]:
    return [{"shards": ["x"], "weight": weight} for weight in weights]


A, B, C = make_split(0, 83, "a"), make_split(1000, 300, "b"), make_split(2000, 40, "c")
MIXED = mixture(3, 1, 2)


@pytest.mark.parametrize(
    "data", [{}, {"order": "window"}, {"shuffle_buffer_size": 4}, {"shuffle_buffer_size": 100}]
)
def test_row_order_has_every_row_once_per_epoch_in_another_order(data):
    found = make_order(B, **data)
    epochs = [found.positions(epoch * 38, 38) for epoch in range(3)]
    assert all(sorted(places[1].tolist()) == list(range(38)) for places in epochs)
    assert len({tuple(places[1].tolist()) for places in epochs}) == 3
    assert [np.unique(places[2]).size for places in epochs] == [1, 1, 1]
    assert len({places[2, 0] for places in epochs}) > 1


def test_shuffle_window_is_read_before_the_next_one():
    rows = make_order(B, shuffle_buffer_size=5).positions(0, 35)[1]  # the last 3 of 38 rows fill no window
    for low in range(0, 35, 5):
        own = set(rows[low : low + 5].tolist())
        assert any(own == {(first + i) % 38 for i in range(5)} for first in own)


@given(cuts=st.lists(st.integers(1, 40), min_size=1, max_size=5), data=st.sampled_from([{}, {"mixture": MIXED}]))
@settings(deadline=None)
def test_row_order_does_not_depend_on_how_a_range_is_cut(cuts, data):
    found = make_order(*([A, B, C] if data else [A]), **data)
    bounds = [0, *itertools.accumulate(cuts)]
    parts = [found.positions(low, high - low) for low, high in itertools.pairwise(bounds)]
    assert np.array_equal(np.concatenate(parts, axis=1), found.positions(0, bounds[-1]))


def test_row_order_is_continuous_across_permutation_blocks(monkeypatch):
    base = make_order(A, B, C, mixture=MIXED).positions(0, 500)
    monkeypatch.setattr(row_order_module, "_BLOCK", 7)
    assert np.array_equal(make_order(A, B, C, mixture=MIXED).positions(0, 500), base)


def test_source_of_a_mixture_is_read_in_the_order_of_a_single_source():
    places = make_order(A, B, C, mixture=MIXED).positions(0, 600)
    for number, source in enumerate((A, B, C)):
        own = places[1:, places[0] == number]
        assert np.array_equal(own, make_order(source).positions(0, own.shape[1])[1:])


@pytest.mark.parametrize("packing", ["chunk", "bfd"])
def test_mixture_rows_equal_the_rows_of_its_sources(packing):
    data = {"packing": packing, "document_mask": True}
    masked = make_split(2000, 40, "c", masks=(np.arange(40, dtype=np.uint8) % 2,))
    found = make_order(A, B, masked, mixture=MIXED, **data)
    places = found.positions(40, 60)
    rows = found.read(places)
    assert rows.starts is not None
    total = 0
    for i, (source, row, offset) in enumerate(places.T.tolist()):
        alone = make_order((A, B, masked)[source], **data)
        place = np.array([[0], [row], [offset]])
        expected = alone.read(place)
        assert np.array_equal(rows.tokens[i], expected.tokens[0])
        assert np.array_equal(rows.targets[i], expected.targets[0])
        assert expected.starts is not None
        assert np.array_equal(rows.starts[i], expected.starts[0])
        total += alone.num_targets(place)
    assert found.num_targets(places) == total == rows.num_targets == (rows.targets != -100).sum()


@pytest.mark.parametrize("packing", ["chunk", "bfd"])
@pytest.mark.parametrize("masks", [None, (np.arange(83, dtype=np.uint8) % 3 > 0,)])
def test_targets_are_counted_without_reading_tokens(packing, masks):
    source = make_split(0, 83, "a", masks=masks)
    order = make_order(source, packing=packing)
    places = order.positions(5, 40)
    without_tokens = make_order(replace(source, shards=()), packing=packing)
    assert without_tokens.num_targets(places) == order.read(places).num_targets < 40 * T


def test_repetitions_count_how_often_each_source_is_read():
    found = make_order(A, B, C, mixture=MIXED)
    assert found.num_rows == 11 + 38 + 5
    assert found.repetitions(600) == (300 / 11, 100 / 38, 200 / 5)
    assert make_order(A).repetitions(22) == (2.0,)
    assert make_order(A).repetitions(0) == (0.0,)


def test_row_order_refuses_another_number_of_sources_than_weights():
    with pytest.raises(ValueError, match="2 sources for 3 weights"):
        make_order(A, B, mixture=MIXED)


def test_row_order_identity_covers_every_setting_of_the_order():
    base = make_order(A, B, mixture=mixture(1, 1)).identity
    others = [
        make_order(A, C, mixture=mixture(1, 1)),
        make_order(A, B, mixture=mixture(1, 2)),
        make_order(A, B, mixture=mixture(1, 1), seed=2),
        make_order(A, B, mixture=mixture(1, 1), packing="bfd"),
        make_order(A, B, mixture=mixture(1, 1), order="window"),
        make_order(A, B, mixture=mixture(1, 1), shuffle_buffer_size=9),
    ]
    identities = [base, *(other.identity for other in others)]
    assert len({tuple(map(str, identity.items())) for identity in identities}) == 7
    assert make_order(A, B, mixture=mixture(1, 1), micro_batch_size=2).identity == base
    assert make_order(A).identity["dataset_id"] == "a"


def test_a_window_is_65536_rows_if_nothing_is_said():
    assert make_order(A, order="window").identity["window_rows"] == 65_536
    assert make_order(A, shuffle_buffer_size=4).identity["window_rows"] == 4
    assert make_order(A).identity["window_rows"] is None


LONGER = replace(make_split(5000, 200, "b2"), before=B)
LONGEST = replace(make_split(7000, 90, "b3"), before=LONGER)


@pytest.mark.parametrize("data", [{}, {"packing": "bfd"}, {"order": "window"}, {"mixture": mixture(2, 1)}])
def test_longer_source_begins_with_the_rows_of_the_shorter_and_goes_on_behind_them(data):
    others = [A] if data.get("mixture") else []
    short, longer = make_order(B, *others, **data), make_order(LONGER, *others, **data)
    count = 38 if not others else 57 - 1  # of one source 300 / 8 rows, of two a third more
    before, after = short.positions(0, count), longer.positions(0, count + 30)[:, :count]
    assert np.array_equal(short.read(before).tokens, longer.read(after).tokens)
    rows = longer.read(longer.positions(0, longer.num_rows))
    if not others:
        targets = sorted(rows.targets[rows.targets >= 0].tolist())
        if data.get("packing") != "bfd":  # each token is a target once
            assert targets == [*range(1000, 1300), *range(5000, 5200)]
        second = longer.positions(short.num_rows, longer.num_rows - short.num_rows)
        assert set(second[0].tolist()) == {1}
        assert sorted(second[1].tolist()) == list(range(longer.num_rows - short.num_rows))


def test_epochs_of_a_longer_source_read_all_its_parts_in_another_order():
    order = make_order(LONGEST)
    epochs = [order.positions(epoch * order.num_rows, order.num_rows) for epoch in range(2)]
    pairs = [sorted(zip(*places[:2].tolist(), strict=True)) for places in epochs]
    assert pairs[0] == pairs[1]
    assert len({*pairs[0]}) == order.num_rows
    assert not np.array_equal(epochs[0][1], epochs[1][1])


def test_state_fits_orders_that_begin_alike_as_far_as_the_run_read():
    short, longer, longest = make_order(B), make_order(LONGER), make_order(LONGEST)
    assert "more_parts" not in short.identity
    assert longer.identity == {**short.identity, "more_parts": [["b2"]]}
    assert longest.identity["more_parts"] == [["b2", "b3"]]
    for state, order, shared in (
        *((None, longer, 38), (None, longest, 38), ([["b2"]], short, 38)),
        *(([["b2"]], longest, 63), ([["b2", "b3"]], longer, 63), ([["x"]], longest, 38)),
    ):
        assert order.begins_alike(state, shared)
        assert not order.begins_alike(state, shared + 1)
    assert longer.begins_alike([["b2"]], 10**9)
    for damaged in ([], {}, "b2", [[], []], ["b2"], 5):
        assert not longest.begins_alike(damaged, 39)
