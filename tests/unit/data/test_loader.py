import itertools
import json
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from candlewick.data import loader as loader_module
from candlewick.data.loader import Batch, Loader, restored_samples, validation_batches
from candlewick.data.token_shards import TokenSplit
from candlewick.errors import ConfigError, DataError


def make_split(*sizes: int) -> TokenSplit:
    """Tokens 0, 1, 2, ... in shards of these sizes."""
    bounds = [0, *itertools.accumulate(sizes)]
    shards = tuple(np.arange(low, high, dtype=np.uint16) for low, high in itertools.pairwise(bounds))
    return TokenSplit("train", "id", shards, tuple(bounds[:-1]), bounds[-1], 4 * bounds[-1])


SPLIT = make_split(50, 3, 100, 47)  # 200 tokens
T = 8


def make_loader(split=SPLIT, **changes) -> Loader:
    return Loader(
        split,
        **{"sequence_length": T, "micro_batch_size": 2, "global_batch_size": 12, "seed": 1, **changes},
    )


def read(loader: Loader, updates: int) -> list[list[list[int]]]:
    """The rows (of targets) of this rank, per update."""
    out = []
    for _ in range(updates):
        batches = loader.next().micro_batches
        out.append([row for batch in batches for row in batch.targets.tolist()])
    loader.close()
    return out


def test_a_batch_is_tokens_and_the_next_ones():
    loader = make_loader()
    batch = loader.next().micro_batches[0]
    loader.close()
    assert batch.tokens.shape == batch.targets.shape == batch.weights.shape == (2, T)
    assert (batch.tokens.dtype, batch.targets.dtype, batch.weights.dtype) == (
        torch.int32,
        torch.int32,
        torch.float32,
    )
    assert torch.equal(batch.targets, (batch.tokens + 1) % 200)
    assert all(tensor.is_contiguous() for tensor in (batch.tokens, batch.targets, batch.weights))
    moved = batch.to(torch.device("cpu"))
    assert isinstance(moved, Batch)
    assert torch.equal(moved.tokens, batch.tokens)


@given(tokens=st.integers(2, 90), length=st.integers(2, 20), seed=st.integers(0, 5), epoch=st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_every_token_is_a_target_once_in_every_epoch(tokens, length, seed, epoch):
    rows = -(-tokens // length)
    loader = Loader(
        make_split(tokens),
        sequence_length=length,
        micro_batch_size=1,
        global_batch_size=1,
        seed=seed,
        samples=epoch * rows,
    )
    targets, weight = [], 0.0
    for _ in range(rows):
        update = loader.next()
        batch = update.micro_batches[0]
        targets += batch.targets[batch.weights == 1].tolist()
        weight += update.weight_sum
    loader.close()
    assert sorted(targets) == list(range(tokens))
    assert weight == tokens


def test_epochs_differ_in_order_and_in_their_grid():
    rows = 25
    loader = make_loader(global_batch_size=2, samples=0)
    seen = [row for update in read(loader, 3 * rows) for row in update]
    epochs = [seen[i * rows : (i + 1) * rows] for i in range(3)]
    assert len({tuple(map(tuple, epoch)) for epoch in epochs}) == 3
    assert len({tuple(sorted(map(tuple, epoch))) for epoch in epochs}) > 1  # other rows, not only another order


def test_seeds_and_datasets_differ():
    base = read(make_loader(), 2)
    assert read(make_loader(), 2) == base
    assert read(make_loader(seed=2), 2) != base
    other = type(SPLIT)("train", "other", SPLIT.shards, SPLIT.starts, SPLIT.num_tokens, 1)
    assert read(make_loader(other), 2) != base


@pytest.mark.parametrize(("world_size", "micro_batch_size"), [(1, 12), (2, 3), (3, 2), (6, 1), (4, 3)])
def test_ranks_and_micro_batches_change_nothing_in_what_is_read(world_size, micro_batch_size):
    base = read(make_loader(), 6)
    ranks = [
        read(make_loader(rank=rank, world_size=world_size, micro_batch_size=micro_batch_size), 6)
        for rank in range(world_size)
    ]
    for step, whole in enumerate(base):
        assert [row for rank in ranks for row in rank[step]] == whole


def test_the_weight_sum_is_that_of_all_ranks():
    split = make_split(197)  # the last of 25 rows has 5 targets
    loaders = [make_loader(split, rank=rank, world_size=3) for rank in range(3)]
    found = set()
    for _ in range(10):
        updates = [loader.next() for loader in loaders]
        whole = sum(batch.weights.sum().item() for update in updates for batch in update.micro_batches)
        assert {update.weight_sum for update in updates} == {whole}
        found.add(whole)
    for loader in loaders:
        loader.close()
    assert len(found) > 1


@pytest.mark.parametrize("stop", [0, 1, 5, 9, 20])
def test_going_on_from_the_state_is_as_if_nothing_had_happened(stop):
    base = read(make_loader(), 30)
    first = make_loader()
    begin = [[row for batch in first.next().micro_batches for row in batch.targets.tolist()] for _ in range(stop)]
    state = json.loads(json.dumps(first.state()))
    first.close()
    samples = restored_samples(state, SPLIT, sequence_length=T, seed=1)
    assert samples == stop * 12
    rest = make_loader(samples=samples, micro_batch_size=6)
    assert begin + read(rest, 30 - stop) == base


def test_the_state_counts_what_was_handed_out_not_what_was_read_ahead():
    loader = make_loader()
    assert loader.state()["samples"] == 0
    loader.next()
    assert loader.state() == {
        "version": 1,
        "dataset_id": "id",
        "split": "train",
        "seed": 1,
        "sequence_length": T,
        "samples": 12,
    }
    assert loader.epoch == 12 / 25
    loader.close()


def test_blocks_of_the_permutation_join_without_a_seam(monkeypatch):
    base = read(make_loader(), 8)
    monkeypatch.setattr(loader_module, "_BLOCK", 7)
    loader_module._permuted_block.cache_clear()
    assert read(make_loader(), 8) == base
    loader_module._permuted_block.cache_clear()


def test_waiting_is_counted(monkeypatch):
    loader = make_loader()
    go = threading.Event()
    original = loader._read
    loader._read = lambda first: (go.wait(5), original(first))[1]
    threading.Timer(0.05, go.set).start()
    loader.next()
    assert 0.02 < loader.wait_seconds < 5
    loader.close()


def test_an_error_in_the_thread_reaches_the_caller():
    loader = make_loader()

    def fail(first):
        raise OSError(5, "Input/output error")

    loader._read = fail
    with pytest.raises(OSError, match="Input/output error"):
        loader.next()
    loader.close()


def test_closing_ends_the_thread():
    loader = make_loader()
    loader.next()
    assert any(thread.name.startswith("loader") for thread in threading.enumerate())
    loader.close()
    loader.close()
    assert not any(thread.name.startswith("loader") for thread in threading.enumerate())


def test_a_global_batch_that_does_not_divide_is_an_error():
    with pytest.raises(
        ConfigError, match=r"12 rows is not a multiple of 1 ranks x micro_batch_size 5 = 5 rows"
    ) as e:
        make_loader(micro_batch_size=5)
    assert e.value.fix == "set data.global_batch_size to 10, or change data.micro_batch_size"
    with pytest.raises(ConfigError, match="2 ranks x micro_batch_size 8 = 16 rows .*global_batch_size to 16"):
        make_loader(micro_batch_size=8, world_size=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset_id": "f" * 64}, "reading with dataset_id f{16}, now it is id "),
        ({"split": "validation"}, "reading with split validation, now it is train"),
        ({"seed": 7}, "reading with seed 7, now it is 1"),
        ({"sequence_length": 16}, "reading with sequence_length 16, now it is 8"),
        ({"version": 2}, "state has version 2, this program reads 1"),
    ],
)
def test_a_state_of_other_data_is_refused_naming_both(change, message):
    loader = make_loader()
    state = {**loader.state(), **change}
    loader.close()
    with pytest.raises(DataError, match=message):
        restored_samples(state, SPLIT, sequence_length=T, seed=1)


class TestValidation:
    def batches(self, tokens=200, rows=4, max_batches=None):
        return list(
            validation_batches(
                make_split(tokens), sequence_length=T, micro_batch_size=rows, max_batches=max_batches
            )
        )

    @pytest.mark.parametrize("tokens", [1, 7, 8, 33, 197, 200, 256])
    def test_every_token_is_a_target_once_and_all_batches_have_one_shape(self, tokens):
        found = self.batches(tokens)
        assert {batch.tokens.shape for batch in found} == {(4, T)}
        targets = [t for batch in found for t in batch.targets[batch.weights == 1].tolist()]
        assert targets == [(i + 1) % tokens for i in range(tokens)]

    def test_it_is_the_same_at_every_call(self):
        for first, second in zip(self.batches(197), self.batches(197), strict=True):
            assert torch.equal(first.tokens, second.tokens)
            assert torch.equal(first.weights, second.weights)

    def test_few_batches_are_spread_evenly(self):
        first = [batch.tokens[0, 0].item() for batch in self.batches(3200, max_batches=5)]
        assert first == [0, 640, 1280, 1920, 2560]

    def test_more_batches_than_there_are_is_all(self):
        assert len(self.batches(200, max_batches=50)) == len(self.batches(200)) == 7

    def test_weights_of_full_batches_stay_ones(self):
        found = self.batches(200)
        assert found[0].weights.sum() == 4 * T
        assert found[-1].weights.sum() == T
        assert found[0].weights.sum() == 4 * T


@pytest.mark.parametrize("samples", [None, "3", 1.5, -1, True])
def test_a_state_without_a_number_of_samples_is_refused(samples):
    loader = make_loader()
    state = {**loader.state(), "samples": samples}
    loader.close()
    with pytest.raises(DataError, match="the loader's state has no number of samples"):
        restored_samples(state, SPLIT, sequence_length=T, seed=1)
