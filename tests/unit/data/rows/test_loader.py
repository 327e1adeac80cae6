import itertools
import json
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.token_splits import count_up
from tests.waiting import wait_until

from candlewick.config import BatchStage, DataConfig
from candlewick.data.rows.batches import BatchSchedule
from candlewick.data.rows.chunking import Rows
from candlewick.data.rows.loader import Batch, Loader, saved_rows, validation_batches
from candlewick.data.rows.row_order import RowOrder
from candlewick.data.tokens.dataset import TokenSplit
from candlewick.errors import DataError
from candlewick.model.documents import Documents


def make_split(*sizes: int, masks=None, **fields) -> TokenSplit:
    """Tokens 0, 1, 2, ... in shards of these sizes; each is one document."""
    ends = tuple(np.array([size], np.uint64) for size in sizes)
    return count_up([0, *itertools.accumulate(sizes)], masks, delimiter_id=60_000, document_ends=ends, **fields)


SPLIT = make_split(50, 3, 100, 47)  # 200 tokens
T = 8


def make_loader(*sources: TokenSplit, rows=12, micro_batch_size=2, data=None, **changes) -> Loader:
    config = DataConfig.model_validate({"micro_batch_size": micro_batch_size, **(data or {})}, strict=False)
    batches = changes.pop("plan", BatchSchedule(rows))
    shape = {"sequence_length": changes.pop("sequence_length", T), "seed": changes.pop("seed", 1)}
    order = RowOrder(sources or (SPLIT,), config, **shape)
    return Loader(order, batches, micro_batch_size=micro_batch_size, **changes)


def read(loader: Loader, updates: int) -> list[list[list[int]]]:
    """The rows (of targets) of this rank, per update."""
    out = []
    for _ in range(updates):
        batches = loader.next().micro_batches
        out.append([row for batch in batches for row in batch.targets.tolist()])
    loader.close()
    return out


def test_batch_targets_are_the_next_tokens():
    loader = make_loader()
    batch = loader.next().micro_batches[0]
    loader.close()
    assert batch.tokens.shape == batch.targets.shape == (2, T)
    assert batch.tokens.dtype == batch.targets.dtype == torch.int32
    assert torch.equal(batch.targets, (batch.tokens + 1) % 200)
    assert all(tensor.is_contiguous() for tensor in (batch.tokens, batch.targets))
    moved = batch.to(torch.device("cpu"))
    assert isinstance(moved, Batch)
    assert torch.equal(moved.tokens, batch.tokens)


@given(tokens=st.integers(2, 90), length=st.integers(2, 20), seed=st.integers(0, 5), epoch=st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_epoch_has_every_token_as_a_target_once(tokens, length, seed, epoch):
    rows = -(-tokens // length)
    start = {"sequence_length": length, "seed": seed, "rows_read": epoch * rows}
    loader = make_loader(make_split(tokens), rows=1, micro_batch_size=1, **start)
    targets, count = [], 0
    for _ in range(rows):
        update = loader.next()
        batch = update.micro_batches[0]
        targets += batch.targets[batch.targets != -100].tolist()
        count += update.num_targets
    loader.close()
    assert sorted(targets) == list(range(tokens))
    assert count == tokens


def test_epochs_differ_in_order_and_chunk_offset():
    rows = 25
    seen = [row for update in read(make_loader(rows=2), 3 * rows) for row in update]
    epochs = [seen[i * rows : (i + 1) * rows] for i in range(3)]
    assert len({tuple(map(tuple, epoch)) for epoch in epochs}) == 3
    assert len({tuple(sorted(map(tuple, epoch))) for epoch in epochs}) > 1  # other rows, not only another order


def test_order_depends_on_the_random_seed_and_the_dataset():
    base = read(make_loader(), 2)
    assert read(make_loader(), 2) == base
    assert read(make_loader(seed=2), 2) != base
    assert read(make_loader(make_split(200, dataset_id="other")), 2) != base


@pytest.mark.parametrize(("world_size", "micro_batch_size"), [(1, 12), (2, 3), (3, 2), (6, 1), (4, 3)])
def test_rows_of_an_update_do_not_depend_on_ranks_or_micro_batch_size(world_size, micro_batch_size):
    base = read(make_loader(), 6)
    ranks = [
        read(make_loader(rank=rank, world_size=world_size, micro_batch_size=micro_batch_size), 6)
        for rank in range(world_size)
    ]
    for step, whole in enumerate(base):
        assert [row for rank in ranks for row in rank[step]] == whole


MASKS = [int(token % 7 < 3) for token in range(200)]


@pytest.mark.parametrize("packing", ["chunk", "bfd"])
@pytest.mark.parametrize("masks", [None, MASKS])
def test_num_targets_counts_the_rows_of_all_ranks(packing, masks):
    split = make_split(50, 3, 100, 47, masks=masks)
    loaders = [make_loader(split, rank=rank, world_size=3, data={"packing": packing}) for rank in range(3)]
    found = set()
    for _ in range(10):
        updates = [loader.next() for loader in loaders]
        whole = sum((batch.targets != -100).sum().item() for update in updates for batch in update.micro_batches)
        assert {update.num_targets for update in updates} == {whole}
        found.add(whole)
    for loader in loaders:
        loader.close()
    assert len(found) > 1 or (packing, masks) == ("chunk", None)


def test_fully_masked_update_has_zero_targets():
    loader = make_loader(make_split(200, masks=[0] * 200))
    update = loader.next()
    loader.close()
    assert update.num_targets == 0
    assert all((batch.targets == -100).all() for batch in update.micro_batches)


def first_batch(split: TokenSplit, **data) -> Batch:
    loader = make_loader(split, rows=4, micro_batch_size=4, data=data)
    batch = loader.next().micro_batches[0].to(torch.device("cpu"))
    loader.close()
    return batch


def test_document_mask_starts_documents_at_delimiters():
    batch = first_batch(replace(SPLIT, delimiter_id=100), document_mask=True)
    assert batch.documents is not None
    assert torch.equal(batch.documents.positions, Documents.from_starts(batch.tokens == 100).positions)
    assert first_batch(SPLIT).documents is None


def test_document_mask_separates_the_documents_of_packed_rows():
    batch = first_batch(make_split(10, 4, 7, 3), packing="bfd", document_mask=True)
    assert batch.documents is not None
    counted = batch.targets != -100
    tokens, positions = batch.tokens[counted].tolist(), batch.documents.positions[counted].tolist()
    begins = [0, 8, 10, 14, 21]
    assert [token - place for token, place in zip(tokens, positions, strict=True)] == [
        max(begin for begin in begins if begin <= token) for token in tokens
    ]
    first_padding = (~counted).int().argmax(dim=1)[~counted.all(dim=1)]
    assert batch.documents.positions[~counted.all(dim=1), first_padding].tolist() == [0] * len(first_padding)


@pytest.mark.parametrize("data", [{}, {"packing": "bfd"}, {"order": "window", "shuffle_buffer_size": 3}])
@pytest.mark.parametrize("stop", [0, 1, 5, 20])
def test_restored_loader_reads_the_rows_of_an_uninterrupted_one(stop, data):
    base = read(make_loader(data=data), 25)
    first = make_loader(data=data)
    begin = [[row for batch in first.next().micro_batches for row in batch.targets.tolist()] for _ in range(stop)]
    state = json.loads(json.dumps(first.state()))
    first.close()
    rest = make_loader(micro_batch_size=6, data=data, rows_read=saved_rows(state, first.order))
    assert rest.rows_read == stop * 12
    assert begin + read(rest, 25 - stop) == base


def test_batch_ramp_reads_the_same_rows_in_smaller_updates():
    ramp = BatchSchedule(12, (BatchStage(steps=2, global_batch_size=4), BatchStage(steps=1, global_batch_size=6)))
    found = read(make_loader(plan=ramp), 6)
    assert [len(update) for update in found] == [4, 4, 6, 12, 12, 12]
    rows = [row for update in found for row in update]
    assert rows == [row for update in read(make_loader(rows=2), 25) for row in update]
    assert read(make_loader(plan=ramp, rows_read=8), 3) == found[2:5]


def test_mixture_loader_reads_sources_by_weight_and_restores_its_state():
    data = {"mixture": [{"shards": ["x"], "weight": 1}, {"shards": ["y"], "weight": 2}]}
    sources = make_split(80), make_split(3200, dataset_id="other")
    loader = make_loader(*sources, data=data)
    assert loader.order.num_rows == 10 + 400
    for _ in range(5):
        loader.next()
    assert loader.order.repetitions(loader.rows_read) == (20 / 10, 40 / 400)
    assert loader.epoch == 60 / 410
    state = json.loads(json.dumps(loader.state()))
    again = make_loader(*sources, data=data, rows_read=saved_rows(state, loader.order))
    assert read(again, 4) == read(loader, 4)


def test_loader_state_counts_returned_rows_without_prefetched_ones():
    loader = make_loader()
    assert loader.state()["samples"] == 0
    loader.next()
    assert loader.state() == {
        "version": 2,
        "dataset_id": "id",
        "weights": [1],
        "split": "train",
        "packing": "chunk",
        "window_rows": None,
        "seed": 1,
        "sequence_length": T,
        "samples": 12,
    }
    assert loader.epoch == 12 / 25
    loader.close()


def test_loader_counts_its_waiting_seconds(monkeypatch):
    loader = make_loader()
    clock = iter([10.0, 10.5, 20.0, 20.25])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    loader.next()
    loader.next()
    assert loader.wait_seconds == 0.75
    loader.close()


def test_error_in_the_loader_thread_reaches_the_caller():
    loader = make_loader()

    def fail(first):
        raise OSError(5, "Input/output error")

    loader._read = fail
    with pytest.raises(OSError, match="Input/output error"):
        loader.next()
    loader.close()


def test_close_ends_the_loader_thread():
    loader = make_loader()
    loader.next()
    assert any(thread.name.startswith("loader") for thread in threading.enumerate())
    loader.close()
    loader.close()
    assert not any(thread.name.startswith("loader") for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset_id": "f" * 64}, "reading with dataset_id f{16}, now it is id "),
        ({"split": "validation"}, "reading with split validation, now it is train"),
        ({"seed": 7}, "reading with seed 7, now it is 1"),
        ({"sequence_length": 16}, "reading with sequence_length 16, now it is 8"),
        ({"weights": [2, 1]}, r"reading with weights \[2, 1\], now it is \[1\]"),
        ({"version": 1}, "state has version 1, this program reads 2"),
        *(({"samples": bad}, "state has no number of samples, but ") for bad in (None, "3", 1.5, -1, True)),
    ],
)
def test_loader_state_of_other_data_is_refused_with_both_values(change, message):
    loader = make_loader()
    with pytest.raises(DataError, match=message):
        saved_rows({**loader.state(), **change}, loader.order)


class TestValidation:
    def batches(self, tokens=200, rows=4, max_tokens=None, **data):
        config = DataConfig.model_validate({"micro_batch_size": rows, **data}, strict=False)
        return list(validation_batches(make_split(tokens), config, sequence_length=T, max_tokens=max_tokens))

    @pytest.mark.parametrize("tokens", [1, 7, 8, 33, 197, 200, 256])
    def test_evaluation_batches_have_every_token_as_a_target_once_in_one_shape(self, tokens):
        found = self.batches(tokens)
        assert {batch.tokens.shape for batch in found} == {(4, T)}
        targets = [t for batch in found for t in batch.targets[batch.targets != -100].tolist()]
        assert targets == [(i + 1) % tokens for i in range(tokens)]

    def test_evaluation_batches_may_be_packed_and_masked_by_document(self):
        found = self.batches(197, packing="bfd", document_mask=True)
        targets = [t for batch in found for t in batch.targets[batch.targets != -100].tolist()]
        assert sorted(targets) == list(range(197))
        assert all(batch.documents is not None for batch in found)

    def test_evaluation_batches_are_equal_at_every_call(self):
        for first, second in zip(self.batches(197), self.batches(197), strict=True):
            assert torch.equal(first.tokens, second.tokens)
            assert torch.equal(first.targets, second.targets)

    def test_evaluation_with_max_tokens_spreads_them_evenly(self):
        rows = [row[0].item() for batch in self.batches(3200, max_tokens=5 * T + 7) for row in batch.tokens]
        assert rows[:5] == [0, 640, 1280, 1920, 2560]

    @pytest.mark.parametrize("packing", ["chunk", "bfd"])
    @pytest.mark.parametrize("max_tokens", [1, T, 5 * T, 11 * T + 1, 10**6, None])
    def test_evaluation_reads_the_same_rows_in_micro_batches_of_any_size(self, max_tokens, packing):
        found = {
            rows: [
                (tokens.tolist(), targets.tolist())
                for batch in self.batches(197, rows=rows, max_tokens=max_tokens, packing=packing)
                for tokens, targets in zip(batch.tokens, batch.targets, strict=True)
                if (targets != -100).any()
            ]
            for rows in (1, 2, 3, 4, 7, 64)
        }
        assert all(other == found[1] for other in found.values())
        most = max_tokens or 10**6
        assert 1 <= len(found[1]) <= max(1, most // T)

    def test_evaluation_with_a_large_max_tokens_reads_all(self):
        assert len(self.batches(200, max_tokens=200)) == len(self.batches(200)) == 7

    def test_rows_that_fill_the_last_evaluation_batch_have_no_targets(self):
        found = self.batches(200)
        assert [(batch.targets != -100).sum(dim=1).tolist() for batch in found] == [[T] * 4] * 6 + [[T, 0, 0, 0]]
        assert found[-1].targets[0, -1] == 0  # after the last token comes the first


def test_loader_counts_returned_rows_with_a_batch_ramp():
    loader = make_loader(plan=BatchSchedule(12, (BatchStage(steps=2, global_batch_size=4),)))
    counts = []
    for _ in range(4):
        loader.next()
        counts.append((loader.rows_read, loader.state()["samples"], loader.epoch * loader.order.num_rows))
    loader.close()
    assert counts == [(n, n, n) for n in (4, 8, 20, 32)]


class Gated:
    """A row order whose reads wait for a permit each, and which counts them."""

    num_rows, identity = 100, {}

    def __init__(self):
        self.permits = threading.Semaphore(0)
        self.begun = self.ended = 0

    def positions(self, first, count):
        return np.zeros((3, count), np.int64)

    def read(self, positions):
        self.begun += 1
        self.permits.acquire()
        self.ended += 1
        shape = positions.shape[1], T
        return Rows(np.zeros(shape, np.int32), np.zeros(shape, np.int32), 1, None)


def test_two_updates_are_read_ahead_one_at_a_time_and_closing_waits_for_one_that_began():
    order: Any = Gated()
    loader = Loader(order, BatchSchedule(1), micro_batch_size=1)
    assert (loader.rank, loader.world_size, loader.rows_read, loader.wait_seconds) == (0, 1, 0, 0.0)
    order.permits.release()
    loader.next()
    closing = threading.Thread(target=loader.close)
    try:
        wait_until(lambda: order.begun >= 2, "the second read to begin", 10)
        ahead = list(loader._pending)
        assert [future.running() for future in ahead] == [True, False]
        closing.start()
        wait_until(ahead[1].cancelled, "the third read to be cancelled", 10)
        assert closing.is_alive()
    finally:
        order.permits.release(9)
    closing.join()
    assert (order.begun, order.ended) == (2, 2)
