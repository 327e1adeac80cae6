import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlewick.config import BatchStage, DataConfig
from candlewick.data.rows.batches import BatchSchedule
from candlewick.errors import ConfigError


def plan_of(world_size: int = 1, length: int = 16, **data) -> BatchSchedule:
    return BatchSchedule.from_config(DataConfig.model_validate(data, strict=False), length, world_size)


@pytest.mark.parametrize(
    ("data", "world_size", "rows"),
    [
        ({"micro_batch_size": 3}, 2, 6),
        ({"micro_batch_size": 3, "global_batch_size": 24}, 2, 24),
        ({"micro_batch_size": 3, "global_batch_tokens": 24 * 16 + 95}, 2, 24),  # rounded down
    ],
)
def test_global_batch_is_set_in_rows_in_tokens_or_by_default(data, world_size, rows):
    assert plan_of(world_size, **data).rows == rows


@pytest.mark.parametrize(
    ("data", "world_size", "problem", "fix"),
    [
        (
            {"micro_batch_size": 5, "global_batch_size": 12},
            1,
            "data.global_batch_size=12 is not a multiple of 1 ranks x micro_batch_size 5 = 5 rows",
            "set it to 10, or change data.micro_batch_size",
        ),
        (
            {"micro_batch_size": 8, "global_batch_size": 3},
            2,
            "data.global_batch_size=3 is not a multiple of 2 ranks x micro_batch_size 8 = 16 rows",
            "set it to 16, or change data.micro_batch_size",
        ),
        (
            {"micro_batch_size": 4, "global_batch_tokens": 127},
            2,
            "data.global_batch_tokens=127 is less than 2 ranks x micro_batch_size 4 = 8 rows of 16 tokens",
            "set it to 128 or more, or data.micro_batch_size to less",
        ),
        (
            {"micro_batch_size": 4, "batch_ramp": [{"steps": 1, "global_batch_size": s} for s in (4, 6)]},
            1,
            "data.batch_ramp[1].global_batch_size=6 is not a multiple of 1 ranks x micro_batch_size 4 = 4 rows",
            "set it to 8, or change data.micro_batch_size",
        ),
    ],
)
def test_global_batch_that_micro_batches_do_not_fill_is_refused(data, world_size, problem, fix):
    with pytest.raises(ConfigError) as error:
        plan_of(world_size, **data)
    assert (error.value.problem, error.value.fix) == (problem, fix)


STAGES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=3)


@given(stages=STAGES, rows=st.integers(1, 9))
def test_batch_schedule_agrees_with_counting_updates_one_by_one(stages, rows):
    plan = BatchSchedule(rows, tuple(BatchStage(steps=n, global_batch_size=size) for n, size in stages))
    sizes = [size for steps, size in stages for _ in range(steps)] + [rows] * 5
    samples = 0
    for step, size in enumerate(sizes):
        assert plan.rows_after(step) == samples
        assert plan.steps_for(samples) == step
        for place in range(samples, samples + size):
            assert plan.rows_at(place) == size
            assert plan.steps_for(place + 1) == step + 1
        samples += size


def test_the_nearest_batch_that_fits_is_never_an_empty_one():
    with pytest.raises(ConfigError, match="set it to 8,"):
        BatchSchedule.from_config(DataConfig(micro_batch_size=4, global_batch_size=1), 8, world_size=2)


def test_a_schedule_begins_at_nothing():
    assert BatchSchedule(4) == BatchSchedule(4, (), 0, 0)
