import json

import pytest

from candlewick.cli.schedule import draw, schedule
from candlewick.config import RunConfig
from candlewick.errors import ConfigError
from candlewick.optim.schedule import multiplier


def read(**tree) -> RunConfig:
    return RunConfig.model_validate_json(json.dumps(tree))


def test_the_numbers_are_the_schedules():
    config = read(scheduler={"total_steps": 1000, "strategy": "cosine"}, optimizer={"learning_rate": 0.5})
    found = schedule(config, None)
    assert (found["total_steps"], found["steps"][0], found["steps"][-1], len(found["steps"])) == (
        1000,
        0,
        999,
        101,
    )
    for step, rate in zip(found["steps"], found["learning_rate"], strict=True):
        assert rate == 0.5 * multiplier(config.scheduler, step, 1000)


@pytest.mark.parametrize("steps", [1, 2, 101, 102])
def test_a_short_run_has_each_of_its_steps(steps):
    found = schedule(read(), steps)
    assert found["steps"][-1] == steps - 1
    assert len(set(found["steps"])) == len(found["steps"]) == min(steps, 101)


def test_rows_follow_the_ramp():
    ramp = [{"steps": 2, "global_batch_size": 2}, {"steps": 1, "global_batch_size": 4}]
    config = read(data={"micro_batch_size": 2, "global_batch_size": 8, "batch_ramp": ramp})
    found = schedule(config, 5)
    assert found["rows"] == [2, 2, 4, 8, 8]
    assert draw(config, found).endswith("rows per update: 2 until 2, 4 until 3, 8 at the end")


def test_a_run_without_a_length_needs_one():
    with pytest.raises(ConfigError, match="give --steps N"):
        schedule(read(scheduler={"total_seconds": 5}), None)


def test_the_curve_is_plain_text():
    config = read(scheduler={"total_steps": 64, "warmup_steps": 8}, optimizer={"learning_rate": 0.02})
    text = draw(config, schedule(config, None))
    assert text.splitlines()[0].startswith("      0.02 |")
    assert "optimizer.learning_rate by completed updates (wsd)" in text
    assert text.isascii()


def test_a_length_that_is_given_is_stronger_and_tokens_are_one_too():
    steps = {"scheduler": {"total_steps": 1000}}
    assert schedule(read(**steps), None)["total_steps"] == 1000
    assert schedule(read(**steps), 7)["total_steps"] == 7
    tokens = {"scheduler": {"total_tokens": 10 * 4 * 512}, "data": {"micro_batch_size": 4}}
    assert schedule(read(**tokens), None)["total_steps"] == 10


def test_muon_has_two_curves():
    config = read(optimizer={"learning_rate": 0.02, "adam_learning_rate": 0.01})
    found = schedule(config, 50)
    assert found["adam_learning_rate"] == [rate / 2 for rate in found["learning_rate"]]
    assert "* learning_rate   + adam_learning_rate" in draw(config, found)
    assert "adam_learning_rate" not in schedule(read(optimizer={"algorithm": "lion"}), 50)
