"""Copies and near copies of validation documents are counted as a plain comparison counts them."""

import random
import tracemalloc
from itertools import accumulate

import numpy as np
import pytest

from candlewick.data.tokens import overlap
from candlewick.data.tokens.dataset import TokenSplit
from candlewick.data.tokens.overlap import Overlap, count_alike, count_overlap

choose = random.Random(5)


def text(length: int = 60) -> list[int]:
    return [choose.randrange(1, 200) for _ in range(length)]


def split(*shards: list[list[int]]) -> TokenSplit:
    """Return a split of documents, each of which begins with the delimiter 0."""
    arrays = [np.array([token for document in shard for token in (0, *document)], np.uint16) for shard in shards]
    ends = [np.array([*accumulate(1 + len(document) for document in shard)], np.uint64) for shard in shards]
    starts = tuple(accumulate((len(array) for array in arrays[:-1]), initial=0))
    total = sum(map(len, arrays))
    return TokenSplit("train", "id", tuple(arrays), starts, total, total, document_ends=tuple(ends))


def changed(document: list[int], place: int) -> list[int]:
    return [*document[:place], 777, *document[place + 1 :]]


def test_exact_and_near_copies_are_counted():
    texts = [text() for _ in range(20)]
    near = [changed(texts[5], 0), changed(texts[6], 30), changed(texts[7], 59), [*texts[8], 1, 2], texts[9][3:]]
    near += [[*texts[10][:20], 5, *texts[10][20:]]]
    far = [[*texts[11][:30], *text(30)], texts[12][:40]]
    training = split([*texts[:5], text()], [*near, *far], [text() for _ in range(50)])
    assert count_overlap([training], split(texts)) == Overlap(20, exact=5, near=6, is_sample=False)


def test_copies_are_found_in_each_source_and_counted_once():
    texts = [text() for _ in range(4)]
    sources = [split([texts[0], text()]), split([texts[0], texts[1], changed(texts[1], 9)])]
    assert count_overlap(sources, split(texts)) == Overlap(4, exact=2, near=0, is_sample=False)


def test_unlike_documents_do_not_overlap_whatever_their_length():
    training = [split([text(length) for length in range(1, 60)])]
    found = count_overlap(training, split([[500 + length] * length for length in range(1, 60)]))
    assert (found.exact, found.near) == (0, 0)


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17])
def test_short_documents_are_compared_whole(length):
    document = list(range(300, 300 + length))
    found = count_overlap([split([document, [*document, 9, 9, 9, 9, 9, 9, 9]])], split([document]))
    assert (found.exact, found.near) == (1, 0)


def test_document_that_goes_on_in_the_next_shard_is_left_out_and_the_one_behind_it_is_not():
    texts = [text(), text()]
    first = TokenSplit(
        "train", "id",
        (np.array([0, *texts[0][:10]], np.uint16), np.array([*texts[0][10:], 0, *texts[1]], np.uint16)),
        (0, 11), 122, 122,
        document_ends=(np.array([], np.uint64), np.array([50, 111], np.uint64)),
    )  # fmt: skip
    found = count_overlap([first], split(texts))
    assert (found.exact, found.is_sample) == (1, True)


def test_of_many_documents_a_sample_is_looked_at(monkeypatch):
    texts = [text() for _ in range(40)]
    monkeypatch.setattr(overlap, "_MAX_VALIDATION_DOCUMENTS", 10)
    found = count_overlap([split(texts)], split(texts))
    assert (found.documents, found.exact, found.is_sample) == (10, 10, True)
    monkeypatch.setattr(overlap, "_MAX_VALIDATION_DOCUMENTS", 100)
    monkeypatch.setattr(overlap, "_MAX_TRAINING_DOCUMENTS", 20)
    shards = [texts[first : first + 10] for first in range(0, 40, 10)]
    found = count_overlap([split(*shards)], split(texts))
    assert (found.documents, found.exact, found.is_sample) == (40, 20, True)


def test_exact_copies_are_found_among_many_with_the_same_beginning():
    header = text(16)
    texts = [[*header, *text(40)] for _ in range(30)]
    assert count_overlap([split(texts)], split(texts)) == Overlap(30, exact=30, near=0, is_sample=False)


def test_as_many_pairs_are_compared_as_the_limit_allows(monkeypatch):
    texts = [text(40) for _ in range(30)]
    monkeypatch.setattr(overlap, "_MAX_COMPARED", 30)
    found = count_overlap([split(texts)], split(texts))
    assert found.is_sample
    assert 0 < found.exact < 30


@pytest.mark.parametrize("size", [1, 3, 10, 11])
def test_counts_are_the_same_for_blocks_of_any_size(monkeypatch, size):
    texts = [text() for _ in range(10)]
    whole = count_overlap([split(texts, texts[:3])], split([*texts[:4], changed(texts[5], 30)]))
    monkeypatch.setattr(overlap, "_BLOCK_DOCUMENTS", size)
    assert count_overlap([split(texts, texts[:3])], split([*texts[:4], changed(texts[5], 30)])) == whole
    assert (whole.exact, whole.near) == (4, 1)


def test_memory_is_that_of_a_block_and_not_of_a_shard(monkeypatch):
    count = 100_000
    tokens, ends = np.tile(np.array([0, 7], np.uint16), count), np.arange(1, count + 1, dtype=np.uint64) * 2
    training = TokenSplit("train", "id", (tokens,), (0,), tokens.size, tokens.size, document_ends=(ends,))
    monkeypatch.setattr(overlap, "_BLOCK_DOCUMENTS", 1024)
    tracemalloc.start()
    try:
        assert count_overlap([training], split([text()])).documents == 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5e6  # a hash of a whole shard takes 60 MB


def test_documents_with_the_same_first_and_last_tokens_are_alike(tmp_path):
    (tmp_path / "shards").mkdir()
    head, tail = text(16), text(16)
    same, short = [[*head, *text(9), *tail] for _ in range(7)], [[5, 6]] * 3
    near = [[*head, *text(20)], [*text(20), *tail], [*changed(head, 15), *tail], [*head, *changed(tail, 0)]]
    rows = []
    for name, documents in {"train-00000": [*same[:4], *near], "validation-00000": [*same[4:], *short]}.items():
        shard = split(documents)
        shard.shards[0].tofile(tmp_path / f"shards/{name}.bin")
        shard.document_ends[0].astype("<u8").tofile(tmp_path / f"shards/{name}.idx")
        rows.append({"name": name})
    details = {"shards": rows, "dtype": "<u2", "delimiter": {"id": 0}}
    assert count_alike(tmp_path, details) == (7, 14)
    assert count_alike(tmp_path, details | {"shards": rows[1:]}) == (3, 6)
