import itertools
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from candlewick.data.rows.mixture import Mixture

WEIGHTS = st.lists(st.integers(1, 12), min_size=1, max_size=5)


@given(weights=WEIGHTS, seed=st.integers(0, 9), block=st.integers(0, 3))
def test_mixture_block_holds_each_source_by_weight(weights, seed, block):
    total = sum(weights)
    sources = Mixture(weights, seed).sources(block * total, total)
    assert np.bincount(sources, minlength=len(weights)).tolist() == weights


@given(weights=WEIGHTS, seed=st.integers(0, 9))
def test_mixture_counts_agree_with_dealing_rows_one_by_one(weights, seed):
    mixture, total = Mixture(weights, seed), sum(weights)
    dealt = mixture.sources(0, 3 * total).tolist()
    for samples in range(3 * total + 1):
        counts = mixture.counts(samples)
        assert counts == tuple(dealt[:samples].count(i) for i in range(len(weights)))
        shares = [Fraction(samples * weight, total) for weight in weights]
        assert all(abs(count - share) < len(weights) for count, share in zip(counts, shares, strict=True))


@given(
    weights=st.lists(st.integers(1, 2**32 - 1), min_size=1, max_size=4),
    first=st.integers(0, 2**50),
    cuts=st.lists(st.integers(1, 30), min_size=1, max_size=4),
)
def test_mixture_sources_do_not_depend_on_how_a_range_is_cut(weights, first, cuts):
    mixture = Mixture(weights, 1)
    bounds = [first, *itertools.accumulate(cuts, initial=first)][1:]
    parts = [mixture.sources(low, high - low) for low, high in itertools.pairwise(bounds)]
    whole = mixture.sources(first, bounds[-1] - first)
    assert np.concatenate(parts).tolist() == whole.tolist()
    gained = np.subtract(mixture.counts(bounds[-1]), mixture.counts(first))
    assert gained.tolist() == np.bincount(whole, minlength=len(weights)).tolist()


def test_mixture_pattern_depends_on_the_random_seed():
    patterns = {tuple(Mixture([5, 1, 1], seed).sources(0, 7).tolist()) for seed in range(20)}
    assert len(patterns) > 5


def test_core_mixture_counts_equal_blocks_times_weight(core_row):
    error, total = 0, 0
    for weights in ([1], [7, 3], [1, 1, 98], [2**32 - 1, 12345, 1]):
        mixture, total = Mixture(weights, 3), sum(weights)
        for blocks in (1, 5, 10**6):
            expected = [blocks * weight for weight in weights]
            error = max(error, *np.abs(np.subtract(mixture.counts(blocks * total), expected)).tolist())
    core_row("data.mixture", "samples per source against blocks x weight", error, 0)
