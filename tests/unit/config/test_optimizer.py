import json
from typing import get_args

import pytest
from pydantic import ValidationError

from candlewick.config import MuonConfig, OptimizerConfig, RunConfig, SchedulerConfig
from candlewick.optim.schedule import SCHEDULES, multiplier

KINDS = {tag.tag: kind for kind, tag in map(get_args, get_args(RunConfig.model_fields["optimizer"].annotation))}


def read(**optimizer) -> OptimizerConfig:
    return RunConfig.model_validate_json(json.dumps({"optimizer": optimizer})).optimizer


@pytest.mark.parametrize(("algorithm", "kind"), KINDS.items())
def test_algorithm_selects_the_optimizer_class(algorithm, kind):
    assert type(read(algorithm=algorithm)) is kind
    assert kind().algorithm == algorithm
    assert type(RunConfig(optimizer=kind()).optimizer) is kind


def test_optimizer_without_algorithm_is_muon():
    assert type(read(learning_rate=0.01)) is MuonConfig


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        ({"algorithm": "rmsprop"}, f"expected tags: {', '.join(map(repr, KINDS))}"),
        ({"algorithm": "adam_w", "momentum": 0.9}, "not permitted"),
        ({"algorithm": "sgd", "beta1": 0.9}, "not permitted"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"learning_rate_scales": {"heads": 2.0}}, "Input should be 'matrix', 'embedding', 'head' or 'vector'"),
        ({"learning_rate_scales": {"head": -1}}, "greater than or equal to 0"),
        ({"ema_decay": 1}, "less than 1"),
        ({"algorithm": "sgd", "nesterov": True, "momentum": 0}, "needs momentum above 0"),
    ],
)
def test_optimizer_and_scheduler_refuse_wrong_settings(optimizer, said):
    with pytest.raises(ValidationError) as caught:
        read(**optimizer)
    assert said in str(caught.value)


def test_learning_rate_scales_are_read_per_role():
    assert read(learning_rate_scales={"matrix": 0, "vector": 2}).learning_rate_scales == {"matrix": 0, "vector": 2}


@pytest.mark.parametrize("share", [0, 1.5])
def test_decay_fraction_outside_zero_to_one_is_refused(share):
    with pytest.raises(ValidationError):
        SchedulerConfig(decay_fraction=share)


@pytest.mark.parametrize("strategy", SCHEDULES)
@pytest.mark.parametrize(("name", "value"), [("decay_fraction", 0.5), ("power", 2.0), ("min_lr", 0.1)])
def test_setting_that_changes_no_rate_of_the_strategy_is_refused(name, value, strategy):
    default = SchedulerConfig.model_fields[name].default
    SchedulerConfig.model_validate({"strategy": strategy, name: default})
    plain, changed = (SchedulerConfig.model_construct(strategy=strategy, **{name: v}) for v in (default, value))
    if any(multiplier(plain, step, 100) != multiplier(changed, step, 100) for step in range(101)):
        SchedulerConfig.model_validate({"strategy": strategy, name: value})
    else:
        with pytest.raises(ValidationError, match=f"{name}={value:g} changes nothing with strategy: {strategy}"):
            SchedulerConfig.model_validate({"strategy": strategy, name: value})
