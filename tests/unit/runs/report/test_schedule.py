import json

import pytest

from candlewick.config import RunConfig
from candlewick.errors import ConfigError
from candlewick.optim.schedule import multiplier
from candlewick.runs.report.schedule import plot_schedule, sample_schedule


def read(**tree) -> RunConfig:
    return RunConfig.model_validate_json(json.dumps(tree))


def test_sampled_rates_equal_peak_times_multiplier():
    config = read(scheduler={"total_steps": 1000, "strategy": "cosine"}, optimizer={"learning_rate": 0.5})
    points = sample_schedule(config, None)
    assert (points["total_steps"], points["steps"][0], points["steps"][-1], len(points["steps"])) == (
        1000,
        0,
        999,
        101,
    )
    for step, rate in zip(points["steps"], points["learning_rate"], strict=True):
        assert rate == 0.5 * multiplier(config.scheduler, step, 1000)


@pytest.mark.parametrize("steps", [1, 2, 101, 102])
def test_sample_schedule_of_a_short_run_takes_each_step(steps):
    points = sample_schedule(read(), steps)
    assert points["steps"][-1] == steps - 1
    assert len(set(points["steps"])) == len(points["steps"]) == min(steps, 101)


def test_sampled_rows_follow_the_batch_ramp():
    ramp = [{"steps": 2, "global_batch_size": 2}, {"steps": 1, "global_batch_size": 4}]
    config = read(data={"micro_batch_size": 2, "global_batch_size": 8, "batch_ramp": ramp})
    points = sample_schedule(config, 5)
    assert points["rows"] == [2, 2, 4, 8, 8]
    assert plot_schedule(config, points).endswith("rows per update: 2 until 2, 4 until 3, 8 at the end")


def test_schedule_without_length_is_an_error():
    with pytest.raises(ConfigError, match="give --steps N"):
        sample_schedule(read(scheduler={"total_seconds": 5}), None)


def test_plotted_schedule_is_plain_text():
    config = read(scheduler={"total_steps": 64, "warmup_steps": 8}, optimizer={"learning_rate": 0.02})
    text = plot_schedule(config, sample_schedule(config, None))
    assert text.splitlines()[0].startswith("      0.02 |")
    assert "optimizer.learning_rate by completed updates (wsd)" in text
    assert text.isascii()


def test_sample_schedule_length_comes_from_steps_or_the_config():
    steps = {"scheduler": {"total_steps": 1000}}
    assert sample_schedule(read(**steps), None)["total_steps"] == 1000
    assert sample_schedule(read(**steps), 7)["total_steps"] == 7
    tokens = {"scheduler": {"total_tokens": 10 * 4 * 512}, "data": {"micro_batch_size": 4}}
    assert sample_schedule(read(**tokens), None)["total_steps"] == 10


def test_schedule_of_muon_has_two_curves():
    config = read(optimizer={"learning_rate": 0.02, "adam_learning_rate": 0.01})
    points = sample_schedule(config, 50)
    assert points["adam_learning_rate"] == [rate / 2 for rate in points["learning_rate"]]
    assert "* learning_rate   + adam_learning_rate" in plot_schedule(config, points)
    assert "adam_learning_rate" not in sample_schedule(read(optimizer={"algorithm": "lion"}), 50)
