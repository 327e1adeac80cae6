import itertools
import math
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candlewick.config import SchedulerConfig
from candlewick.optim.schedule import SCHEDULES, multiplier, warmup_steps

STRATEGIES = list(SCHEDULES)


def curve(total: int, **settings) -> list[float]:
    config = SchedulerConfig(**settings)
    return [multiplier(config, step, total) for step in range(total + 1)]


def shaped(strategy: str, **settings) -> SchedulerConfig:
    """A config that may set what its strategy does not use."""
    return SchedulerConfig().model_copy(update={"strategy": strategy, **settings})


def half_cosine(step: int, warmup: int) -> float:
    return (
        (1 + math.cos(math.pi * min(step - warmup, 100 - warmup) / (100 - warmup))) / 2 if step > warmup else 1.0
    )


def square(step: int, warmup: int) -> float:
    return (max(0, 100 - step) / (100 - warmup)) ** 2 if step > warmup else 1.0


FORMULAS = {
    "constant": lambda _step, _warmup: 1.0,
    "linear_warmup": lambda _step, _warmup: 1.0,
    "cosine": half_cosine,
    "cosine_with_warmup": half_cosine,
    "polynomial": square,
    "wsd": lambda step, _warmup: max(0, 100 - step) / 40 if step > 60 else 1.0,
}
"""The decay of a run of 100 steps with `power` 2 and `decay_fraction` 0.4. tests/test_core_table.py wants each."""


def test_every_strategy_has_a_schedule():
    names = set(get_args(SchedulerConfig.model_fields["strategy"].annotation))
    assert names == SCHEDULES.keys(), "optim/schedule.py: SCHEDULES and scheduler.strategy differ"


@pytest.mark.parametrize("strategy", FORMULAS)
def test_multiplier_equals_the_formula_at_every_corner(strategy, core_row):
    errors = []
    for warmup, lowest in ((10, 0.0), (10, 0.1), (0, 0.2), (80, 0.0), (99, 0.1)):
        config = shaped(strategy, warmup_steps=warmup, min_lr=lowest, power=2.0, decay_fraction=0.4)
        # the first, the last of the warm-up, the first after it, the middle, around the decay, the last, beyond
        steps = (0, 1, max(0, warmup - 1), warmup, warmup + 1, 50, 60, 61, 80, 99, 100, 500)
        for step in steps:
            ramp, decay = (step + 1) / warmup if step < warmup else 1.0, FORMULAS[strategy](step, warmup)
            errors.append(abs(multiplier(config, step, 100) - ramp * (lowest + (1 - lowest) * decay)))
    core_row(f"scheduler.strategy={strategy}", "the formula, float64, of the peak", max(errors), 1e-12)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_warmup_is_linear_and_reaches_the_peak(strategy):
    assert curve(100, strategy=strategy, warmup_steps=4)[:4] == [0.25, 0.5, 0.75, 1.0]
    assert curve(100, strategy=strategy, warmup_steps=0)[0] == 1.0


def test_cosine_falls_from_the_end_of_the_warmup_to_the_end_of_the_run():
    values = curve(110, strategy="cosine", warmup_steps=10, min_lr=0.1)
    assert values[10] == 1.0
    assert values[60] == pytest.approx(0.55)
    assert values[110] == pytest.approx(0.1)


def test_polynomial_of_power_one_is_linear():
    values = curve(110, strategy="polynomial", warmup_steps=10, min_lr=0.5)
    assert values[10] == 1.0
    assert {round(early - late, 12) for early, late in itertools.pairwise(values[10:])} == {0.005}
    assert curve(110, strategy="polynomial", warmup_steps=10, power=2.0)[60] == pytest.approx(0.25)


def test_wsd_schedule_is_flat_then_linear():
    values = curve(100, strategy="wsd", warmup_steps=10, decay_fraction=0.4, min_lr=0.2)
    assert set(values[9:61]) == {1.0}
    assert values[80] == pytest.approx(0.6)
    assert values[100] == pytest.approx(0.2)
    assert values[70] - values[71] == pytest.approx(0.8 / 40)


@pytest.mark.parametrize(("total", "expected"), [(1000, 20), (10, 0), (40, 1), (1_000_000, 2000), (None, 50)])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_default_warmup_is_a_share_of_the_run_or_zero(strategy, total, expected):
    suggested = expected if SCHEDULES[strategy].has_default_warmup else 0
    assert warmup_steps(SchedulerConfig(strategy=strategy), total) == suggested
    assert warmup_steps(SchedulerConfig(strategy=strategy, warmup_steps=7), total) == 7


@pytest.mark.parametrize("strategy", ["constant", "cosine"])
def test_constant_and_cosine_warm_up_only_if_told_to(strategy):
    assert warmup_steps(SchedulerConfig(strategy=strategy), 1000) == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("total", [120, 100_000])
def test_nothing_jumps_before_the_decay_when_a_time_budget_becomes_steps(strategy, total):
    config = SchedulerConfig(strategy=strategy, total_seconds=60.0)
    decay_step = max(warmup_steps(config, None), int(SCHEDULES[strategy].decay_start(config) * total))
    for step in range(decay_step):
        assert multiplier(config, step, None) == multiplier(config, step, total)
    assert multiplier(config, 50, None) == 1.0


@pytest.mark.parametrize("strategy", ["constant", "linear_warmup", "wsd"])
def test_strategies_that_are_flat_at_first_do_not_jump_at_a_twentieth_of_a_timed_run(strategy):
    config = SchedulerConfig(strategy=strategy, total_seconds=60.0)
    assert all(multiplier(config, step, None) == multiplier(config, step, 1000) for step in range(60))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("total", [2_000, 100_000])
def test_multiplier_falls_by_a_twentieth_at_most_where_a_time_budget_becomes_steps(strategy, total):
    config = SchedulerConfig(strategy=strategy, total_seconds=60.0)
    fall = multiplier(config, total // 20, None) - multiplier(config, total // 20, total)
    most = 0.01 if strategy.startswith("cosine") else 0.05
    assert 0 <= fall <= most + 1e-9, "see Schedule: fall less at the beginning, or give it a decay_start"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_warmup_of_a_timed_run_does_not_depend_on_its_steps(strategy):
    config = SchedulerConfig(strategy=strategy, total_seconds=60.0)
    expected = 50 if SCHEDULES[strategy].has_default_warmup else 0
    assert warmup_steps(config, None) == warmup_steps(config, 100_000) == expected


@given(
    st.sampled_from(STRATEGIES),
    st.integers(1, 300),
    st.one_of(st.none(), st.integers(0, 400)),
    st.floats(0.01, 1.0),
    st.floats(0.0, 1.0),
    st.floats(0.2, 4.0),
)
@settings(max_examples=150, deadline=None)
def test_multiplier_is_in_bounds_and_never_rises_after_the_warmup(strategy, total, warmup, decay, lowest, power):
    config = shaped(strategy, warmup_steps=warmup, decay_fraction=decay, min_lr=lowest, power=power)
    values = [multiplier(config, step, total) for step in range(total + 3)]
    after = values[warmup_steps(config, total) :]
    assert all(0 <= value <= 1 for value in values)
    assert all(value >= lowest - 1e-12 for value in after)
    assert all(late <= early + 1e-12 for early, late in itertools.pairwise(after))
    if after:
        is_flat = set(after) == {1.0}
        assert is_flat or after[-1] == pytest.approx(lowest), "see Schedule: it ends at min_lr, or is flat"
    if total > warmup_steps(config, total) > 0:
        assert values[0] > 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_multiplier_past_the_end_stays_at_its_last_value(strategy):
    end = multiplier(shaped(strategy, min_lr=0.3, warmup_steps=0), 100, 100)
    assert end in (pytest.approx(0.3), 1.0)
    assert multiplier(shaped(strategy, min_lr=0.3, warmup_steps=0), 500, 100) == end
    longer = shaped(strategy, min_lr=0.3, warmup_steps=200)
    assert multiplier(longer, 99, 100) <= 0.5
    assert multiplier(longer, 200, 100) == end


def test_a_decay_ends_with_a_run_that_is_shorter_than_its_warm_up():
    config = SchedulerConfig(strategy="cosine", warmup_steps=20)
    assert multiplier(config, 10, 10) == pytest.approx(0.0, abs=1e-12)
    assert multiplier(config, 9, 10) == pytest.approx(0.5)


def test_after_its_end_a_run_stays_at_the_floor_of_its_schedule():
    for strategy in ("cosine", "polynomial", "wsd"):
        config = SchedulerConfig(strategy=strategy, warmup_steps=0, min_lr=0.25)
        assert [multiplier(config, step, 10) for step in (10, 11, 15)] == pytest.approx([0.25] * 3)
