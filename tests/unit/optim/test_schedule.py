import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candlewick.config import SchedulerConfig
from candlewick.optim.schedule import multiplier, warmup_steps


def curve(total: int, **settings) -> list[float]:
    config = SchedulerConfig(**settings)
    return [multiplier(config, step, total) for step in range(total + 1)]


def test_warm_up_is_linear_and_reaches_the_peak():
    values = curve(100, strategy="constant", warmup_steps=4)
    assert values[:6] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert set(values[4:]) == {1.0}
    assert curve(10, strategy="constant", warmup_steps=0)[0] == 1.0


def test_cosine_goes_from_the_end_of_the_warm_up_to_the_end():
    values = curve(110, strategy="cosine", warmup_steps=10, min_lr=0.1)
    assert values[10] == 1.0
    assert values[60] == pytest.approx(0.55)
    assert values[35] == pytest.approx(0.1 + 0.9 * (0.5 + 0.5 * math.cos(math.pi / 4)))
    assert values[110] == pytest.approx(0.1)


def test_wsd_is_flat_then_linear():
    values = curve(100, strategy="wsd", warmup_steps=10, decay_fraction=0.4, min_lr=0.2)
    assert set(values[9:61]) == {1.0}
    assert values[80] == pytest.approx(0.6)
    assert values[100] == pytest.approx(0.2)
    assert values[70] - values[71] == pytest.approx(0.8 / 40)


@pytest.mark.parametrize(("total", "expected"), [(1000, 20), (10, 0), (40, 1), (1_000_000, 2000), (None, 50)])
def test_a_warm_up_that_is_not_set_is_a_share_of_the_run(total, expected):
    assert warmup_steps(SchedulerConfig(), total) == expected
    assert warmup_steps(SchedulerConfig(warmup_steps=7), total) == 7


@pytest.mark.parametrize("strategy", ["constant", "wsd"])
@pytest.mark.parametrize("total", [120, 100_000])
def test_nothing_jumps_when_a_time_budget_becomes_steps(strategy, total):
    config = SchedulerConfig(strategy=strategy, total_seconds=60.0)
    for step in range(40):
        assert multiplier(config, step, None) == multiplier(config, step, total)
    assert multiplier(config, 50, None) == 1.0


@given(
    st.sampled_from(["constant", "cosine", "wsd"]),
    st.integers(1, 300),
    st.one_of(st.none(), st.integers(0, 400)),
    st.floats(0.01, 1.0),
    st.floats(0.0, 1.0),
)
@settings(max_examples=150, deadline=None)
def test_it_is_in_bounds_and_after_the_warm_up_never_rises(strategy, total, warmup, decay, lowest):
    config = SchedulerConfig(strategy=strategy, warmup_steps=warmup, decay_fraction=decay, min_lr=lowest)
    values = [multiplier(config, step, total) for step in range(total + 3)]
    after = values[warmup_steps(config, total) :]
    assert all(0 <= value <= 1 for value in values)
    assert all(value >= lowest - 1e-12 for value in after)
    assert all(late <= early + 1e-12 for early, late in itertools.pairwise(after))
    if after and strategy != "constant":
        assert after[-1] == pytest.approx(lowest)
    if total > warmup_steps(config, total) > 0:
        assert values[0] > 0


def test_past_the_end_it_stays_at_the_lowest():
    for strategy in ("cosine", "wsd"):
        config = SchedulerConfig(strategy=strategy, min_lr=0.3, warmup_steps=0)
        assert multiplier(config, 500, 100) == pytest.approx(0.3)
