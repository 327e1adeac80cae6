from itertools import count

import pytest

from candlewick.config import BatchStage, MuonConfig, RunConfig, SchedulerConfig
from candlewick.data.rows.batches import BatchSchedule
from candlewick.errors import ConfigError
from candlewick.optim.schedule import multiplier
from candlewick.train.budget import (
    learning_rate_share,
    max_steps_for_repetitions,
    planned_steps,
    require_end,
    steps_from_time,
)

PLAN = BatchSchedule(rows=10)
RAMPED = BatchSchedule(
    rows=10, stages=(BatchStage(steps=5, global_batch_size=2), BatchStage(steps=4, global_batch_size=5))
)


@pytest.mark.parametrize(
    ("total", "steps", "ramped"),
    [
        ({"total_steps": 7}, 7, 7),
        ({"total_tokens": 1000}, 10, 16),
        ({"total_tokens": 99}, 1, 4),
        ({"total_tokens": 19}, 1, 1),
        ({"total_epochs": 1.0}, 51, 57),
        ({"total_epochs": 0.5}, 26, 32),
        ({"total_epochs": 1e308}, -(-(2**60) // 10), None),
        ({"total_seconds": 5.0}, None, None),
    ],
)
def test_planned_steps_converts_each_kind_of_end(total, steps, ramped):
    settings = {"sequence_length": 10, "epoch_rows": 505}
    assert planned_steps(SchedulerConfig(**total), PLAN, **settings) == steps
    if ramped is not None:
        assert planned_steps(SchedulerConfig(**total), RAMPED, **settings) == ramped


def test_planned_steps_without_an_end_is_refused():
    with pytest.raises(ConfigError, match="no end.*total_steps"):
        require_end(SchedulerConfig())
    require_end(SchedulerConfig(total_epochs=0.5))


@pytest.mark.parametrize("plan", [PLAN, RAMPED])
@pytest.mark.parametrize("limit", [0.001, 0.5, 1.0, 3.25, 1e6])
def test_max_repetitions_end_the_run_at_the_update_that_reaches_them(plan, limit, core_row):
    def repetitions(samples):
        return samples * 2 / 3 / 100, samples / 3 / 101

    most = max_steps_for_repetitions(limit, plan, repetitions)
    assert repetitions(plan.rows_after(most - 1))[0] < limit <= repetitions(plan.rows_after(most))[0]
    if limit < 10:
        counted = next(n for n in count() if max(repetitions(plan.rows_after(n))) >= limit)
        core_row("data.max_repetitions", "updates counted one by one; difference", abs(most - counted), 0)


def test_time_budget_becomes_steps_after_a_twentieth():
    scheduler = SchedulerConfig(total_seconds=100.0, strategy="cosine")
    assert steps_from_time(scheduler, PLAN, step=100, train_seconds=4.9, max_steps=None) is None
    assert steps_from_time(scheduler, PLAN, step=9, train_seconds=50.0, max_steps=None) is None
    assert steps_from_time(scheduler, PLAN, step=100, train_seconds=5.0, max_steps=None) == 2000
    assert steps_from_time(scheduler, PLAN, step=10, train_seconds=6000.0, max_steps=None) == 11
    assert (
        steps_from_time(SchedulerConfig(total_steps=5), PLAN, step=10, train_seconds=60.0, max_steps=None) is None
    )


def test_time_budget_of_wsd_becomes_steps_at_the_end_of_the_plateau():
    scheduler = SchedulerConfig(total_seconds=100.0, strategy="wsd", decay_fraction=0.8)
    assert steps_from_time(scheduler, PLAN, step=100, train_seconds=19.0, max_steps=None) is None
    total = steps_from_time(scheduler, PLAN, step=100, train_seconds=20.0, max_steps=None)
    assert total == 500
    # the decay begins where the plateau has just ended
    assert multiplier(scheduler, 100, total) == 1.0
    assert multiplier(scheduler, 101, total) < 1.0
    whole = SchedulerConfig(total_seconds=100.0, strategy="wsd", decay_fraction=1.0)
    assert steps_from_time(whole, PLAN, step=100, train_seconds=5.0, max_steps=None) == 2000


def test_max_steps_before_the_time_budget_are_known_before_the_decay():
    scheduler = SchedulerConfig(total_seconds=100.0, strategy="wsd", decay_fraction=0.25)
    assert steps_from_time(scheduler, PLAN, step=74, train_seconds=1.0, max_steps=100) is None
    assert steps_from_time(scheduler, PLAN, step=75, train_seconds=1.0, max_steps=100) == 100
    assert steps_from_time(scheduler, PLAN, step=120, train_seconds=1.0, max_steps=100) == 100
    assert steps_from_time(scheduler, PLAN, step=60, train_seconds=80.0, max_steps=100) == 75
    assert steps_from_time(scheduler, PLAN, step=74, train_seconds=75.0, max_steps=98) == 98


def test_time_budget_with_a_batch_ramp_is_counted_in_rows():
    scheduler = SchedulerConfig(total_seconds=100.0, strategy="cosine")
    # 5 updates of 2 rows and 4 of 5, then 1 of 10: 40 rows in 8 seconds, so 500 in 100
    assert steps_from_time(scheduler, RAMPED, step=10, train_seconds=8.0, max_steps=None) == 9 + 47


@pytest.mark.parametrize("plan", [PLAN, RAMPED])
@pytest.mark.parametrize(("step", "samples"), [(0, 0), (7, 21), (30, 34), (3, 600)])
def test_batch_schedule_resumed_continues_from_step_and_rows(plan, step, samples):
    course = plan.resume_at(step, samples)
    assert course.rows_after(step) == samples
    assert course.steps_for(samples) == step
    for wanted in (samples + 10, samples + 12, samples + 255):
        steps = course.steps_for(wanted)
        assert course.rows_after(steps - 1) < wanted <= course.rows_after(steps)
        settings = {"sequence_length": 10, "epoch_rows": wanted}
        assert planned_steps(SchedulerConfig(total_epochs=1.0), course, **settings) == steps
        total = planned_steps(SchedulerConfig(total_tokens=10 * wanted), course, **settings)
        assert total is not None
        assert course.rows_after(total) <= wanted < course.rows_after(total + 1)


def test_planned_steps_of_a_run_beyond_its_end_is_its_present_step():
    settings = {"sequence_length": 10, "epoch_rows": 100}
    assert planned_steps(SchedulerConfig(total_epochs=1.0), PLAN.resume_at(3, 700), **settings) == 1


def test_a_limit_of_repetitions_that_was_reached_before_ends_the_run_where_it_stands():
    def repetitions(rows):
        return (rows / 10,)

    assert max_steps_for_repetitions(1.0, PLAN.resume_at(7, 700), repetitions) == 7


def test_the_floor_of_the_learning_rate_is_a_share_of_the_peak_of_the_optimizer():
    config = RunConfig(
        optimizer=MuonConfig(learning_rate=0.5), scheduler=SchedulerConfig(strategy="cosine", min_lr=0.125)
    )
    assert learning_rate_share(config, 10, 10) == pytest.approx(0.25)
    assert learning_rate_share(config, 0, 10) == 1.0


def test_an_end_by_repetitions_is_known_before_any_speed_is():
    scheduler = SchedulerConfig(total_seconds=100.0, strategy="cosine")
    assert steps_from_time(scheduler, PLAN, step=1, train_seconds=0.1, max_steps=20) == 20
    assert steps_from_time(scheduler, PLAN, step=1, train_seconds=0.1, max_steps=21) is None
