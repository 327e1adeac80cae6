import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlewick.data.order import permute, stateless_hash

KEYS = st.integers(0, 2**64 - 1)


@given(n=st.integers(1, 700), key=KEYS)
def test_it_is_a_bijection(n, key):
    assert sorted(permute(np.arange(n), n, key)) == list(range(n))


@given(n=st.integers(1, 2**62), key=KEYS, data=st.data())
def test_any_place_of_any_size_is_computed_alone_and_inside(n, key, data):
    numbers = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=8)))
    places = permute(numbers, n, key)
    assert ((places >= 0) & (places < n)).all()
    assert places.tolist() == [int(permute(numbers[i : i + 1], n, key)[0]) for i in range(len(numbers))]
    assert len(set(places.tolist())) == len(set(numbers.tolist()))


def test_frozen_vectors():
    """These may never change: they are the order in which runs that exist read their data."""
    assert stateless_hash(42, 0, "abc") == 12205381363525922736
    assert stateless_hash("rows", 1, 2, "f" * 64) == 12326874226791300288
    assert permute(np.arange(10), 10, 0).tolist() == [0, 7, 1, 9, 8, 3, 4, 6, 5, 2]
    assert permute(np.arange(8), 1_000_003, 42).tolist() == [
        620860,
        533459,
        487441,
        93995,
        22178,
        314624,
        113857,
        905143,
    ]
    assert permute(np.array([0, 1, 2**40]), 2**41 + 5, 2**64 - 1).tolist() == [
        265301538696,
        1875540566276,
        1417250580410,
    ]


def test_neighbors_and_places_are_not_correlated():
    n = 100_003
    places = permute(np.arange(n), n, stateless_hash("a"))
    others = permute(np.arange(n), n, stateless_hash("b"))
    for first, second in ((places[:-1], places[1:]), (np.arange(n), places), (places, others)):
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.015  # 4.7 standard deviations
    # how many stay in their place is Poisson(1)
    assert np.count_nonzero(places == np.arange(n)) < 8


@pytest.mark.parametrize("n", [3, 5])
def test_small_permutations_are_even_over_keys(n):
    draws = 600
    counts = np.zeros((n, n))
    for seed in range(draws):
        counts[np.arange(n), permute(np.arange(n), n, stateless_hash(seed))] += 1
    deviation = (counts - draws / n) / np.sqrt(draws / n * (1 - 1 / n))
    assert np.abs(deviation).max() < 5


def test_the_shape_is_kept_and_integers_of_any_width_do():
    numbers = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert permute(numbers, 12, 7).shape == (3, 4)
    assert permute(numbers, 12, 7).dtype == np.int64
    assert permute(np.empty(0, np.int64), 12, 7).size == 0


@pytest.mark.parametrize("n", [0, -1, 2**62 + 1])
def test_an_impossible_size_is_an_error(n):
    with pytest.raises(ValueError, match="a permutation of"):
        permute(np.arange(0), n, 1)


@pytest.mark.parametrize("number", [-1, 10])
def test_numbers_outside_are_an_error(number):
    with pytest.raises(ValueError, match=r"outside of 0\.\.9"):
        permute(np.array([number]), 10, 1)


def test_parts_of_a_hash_do_not_run_together():
    assert stateless_hash("ab", "c") != stateless_hash("a", "bc")
    assert stateless_hash(1, 2) == stateless_hash("1", "2")
