import pytest

from candlewick.config import SchedulerConfig
from candlewick.errors import ConfigError
from candlewick.optim.schedule import multiplier
from candlewick.train.budget import planned_steps, steps_from_time


@pytest.mark.parametrize(
    ("total", "steps"),
    [
        ({"total_steps": 7}, 7),
        ({"total_tokens": 1000}, 10),
        ({"total_tokens": 99}, 1),
        ({"total_epochs": 1.0}, 51),
        ({"total_epochs": 0.5}, 26),
        ({"total_seconds": 5.0}, None),
    ],
)
def test_each_kind_of_end_becomes_steps(total, steps):
    assert planned_steps(SchedulerConfig(**total), tokens_per_update=100, split_tokens=5_050) == steps


def test_a_run_with_no_end_is_an_error():
    with pytest.raises(ConfigError, match="no end.*total_steps"):
        planned_steps(SchedulerConfig(), tokens_per_update=1, split_tokens=1)


def test_time_becomes_steps_after_a_twentieth():
    scheduler = SchedulerConfig(total_seconds=100.0, strategy="cosine")
    assert steps_from_time(scheduler, step=100, train_seconds=4.9) is None
    assert steps_from_time(scheduler, step=9, train_seconds=50.0) is None
    assert steps_from_time(scheduler, step=100, train_seconds=5.0) == 2000
    assert steps_from_time(scheduler, step=10, train_seconds=6000.0) == 11
    assert steps_from_time(SchedulerConfig(total_steps=5), step=10, train_seconds=60.0) is None


def test_a_plateau_is_measured_to_its_end():
    scheduler = SchedulerConfig(total_seconds=100.0, strategy="wsd", decay_fraction=0.8)
    assert steps_from_time(scheduler, step=100, train_seconds=19.0) is None
    total = steps_from_time(scheduler, step=100, train_seconds=20.0)
    assert total == 500
    # the decay begins where the plateau has just ended
    assert multiplier(scheduler, 100, total) == 1.0
    assert multiplier(scheduler, 101, total) < 1.0
    whole = SchedulerConfig(total_seconds=100.0, strategy="wsd", decay_fraction=1.0)
    assert steps_from_time(whole, step=100, train_seconds=5.0) == 2000
