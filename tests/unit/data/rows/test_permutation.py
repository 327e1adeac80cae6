import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlewick.data.rows.permutation import permute, permute_in_windows, stateless_hash

KEYS = st.integers(0, 2**64 - 1)


@given(n=st.integers(1, 700), key=KEYS)
def test_permute_is_a_bijection(n, key):
    assert sorted(permute(np.arange(n), n, key)) == list(range(n))


@given(n=st.integers(1, 2**62), key=KEYS, data=st.data())
def test_permute_of_single_numbers_agrees_with_permute_of_many(n, key, data):
    numbers = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=8)))
    places = permute(numbers, n, key)
    assert ((places >= 0) & (places < n)).all()
    assert places.tolist() == [int(permute(numbers[i : i + 1], n, key)[0]) for i in range(len(numbers))]
    assert len(set(places.tolist())) == len(set(numbers.tolist()))


def test_permute_and_stateless_hash_have_frozen_values():
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


def test_permute_leaves_neighbors_and_keys_uncorrelated():
    n = 100_003
    places = permute(np.arange(n), n, stateless_hash("a"))
    others = permute(np.arange(n), n, stateless_hash("b"))
    for first, second in ((places[:-1], places[1:]), (np.arange(n), places), (places, others)):
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.015  # 4.7 standard deviations
    # how many stay in their place is Poisson(1)
    assert np.count_nonzero(places == np.arange(n)) < 8


@pytest.mark.parametrize("n", [3, 5])
def test_permute_of_a_small_size_is_uniform_over_keys(n):
    draws = 600
    keys = np.array([stateless_hash(seed) for seed in range(draws)], np.uint64)
    numbers = np.tile(np.arange(n), draws)
    counts = np.zeros((n, n))
    np.add.at(counts, (numbers, permute(numbers, n, np.repeat(keys, n))), 1)
    deviation = (counts - draws / n) / np.sqrt(draws / n * (1 - 1 / n))
    assert np.abs(deviation).max() < 5


def test_permute_keeps_the_shape_and_accepts_any_integer_width():
    numbers = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert permute(numbers, 12, 7).shape == (3, 4)
    assert permute(numbers, 12, 7).dtype == np.int64
    assert permute(np.empty(0, np.int64), 12, 7).size == 0


@given(n=st.integers(1, 2**40), keys=st.lists(KEYS, min_size=1, max_size=8), data=st.data())
def test_permute_accepts_a_key_per_number(n, keys, data):
    numbers = np.array([data.draw(st.integers(0, n - 1)) for _ in keys])
    alone = [int(permute(numbers[i : i + 1], n, key)[0]) for i, key in enumerate(keys)]
    assert permute(numbers, n, np.array(keys, np.uint64)).tolist() == alone


@given(n=st.integers(1, 200), window=st.integers(1, 250), key=KEYS)
def test_permute_in_windows_reads_one_shuffled_window_after_another(n, window, key):
    places = permute_in_windows(np.arange(n), n, window, key)
    assert sorted(places.tolist()) == list(range(n))
    for low in range(0, n, window):
        own = sorted(((places[low : low + window] - key % n) % n).tolist())
        assert own == list(range(own[0], own[0] + len(own)))
        assert own[0] % min(window, n) == 0
    some = np.arange(n)[n // 3 :: 2]
    assert permute_in_windows(some, n, window, key).tolist() == places[some].tolist()


def test_permute_in_windows_depends_on_the_key():
    def order(key):
        return permute_in_windows(np.arange(1000), 1000, 100, key)

    windows = (order(5)[::100] - 5) % 1000 // 100
    assert windows.tolist() != sorted(windows.tolist())
    assert order(5).tolist() != order(6).tolist()
    inside = [((order(5)[low : low + 100] - 5) % 100).tolist() for low in range(0, 1000, 100)]
    assert len(set(map(tuple, inside))) == 10


def test_permute_in_windows_has_frozen_values():
    """This may never change either."""
    assert permute_in_windows(np.arange(10), 10, 4, 42).tolist() == [4, 3, 2, 5, 9, 7, 6, 8, 0, 1]
    far = np.array([0, 1, 65536, 999_999])
    assert permute_in_windows(far, 1_000_003, 65536, 2**64 - 1).tolist() == [589418, 556355, 846985, 336457]


def test_core_order_has_every_row_once(core_row):
    orders = {"global": lambda n: permute(np.arange(n), n, 7)}
    orders["window"] = lambda n: permute_in_windows(np.arange(n), n, 11, 7)
    for name, order in orders.items():
        missing = sum(n - len(set(order(n).tolist())) for n in (1, 2, 10, 11, 12, 33, 64, 100, 1000))
        core_row(f"data.order={name}", "every row once, for 1 to 1,000 rows", missing, 0)


@pytest.mark.parametrize("n", [0, -1, 2**62 + 1])
def test_permute_refuses_an_impossible_size(n):
    with pytest.raises(ValueError, match="a permutation of"):
        permute(np.arange(0), n, 1)


@pytest.mark.parametrize("number", [-1, 10])
def test_permute_refuses_numbers_outside_the_size(number):
    with pytest.raises(ValueError, match=r"outside of 0\.\.9"):
        permute(np.array([number]), 10, 1)


def test_stateless_hash_separates_its_parts():
    assert stateless_hash("ab", "c") != stateless_hash("a", "bc")
    assert stateless_hash(1, 2) == stateless_hash("1", "2")
