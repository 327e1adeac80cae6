import json

import pytest
from pydantic import ValidationError

from candlewick.config import (
    AdamConfig,
    AdamWConfig,
    LionConfig,
    MuonConfig,
    OptimizerConfig,
    RunConfig,
    SchedulerConfig,
    SGDConfig,
)


def read(**optimizer) -> OptimizerConfig:
    return RunConfig.model_validate_json(json.dumps({"optimizer": optimizer})).optimizer


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [
        ("muon", MuonConfig),
        ("adam_w", AdamWConfig),
        ("adam", AdamConfig),
        ("sgd", SGDConfig),
        ("lion", LionConfig),
    ],
)
def test_the_optimizer_is_told_by_its_algorithm(algorithm, kind):
    assert type(read(algorithm=algorithm)) is kind
    assert type(RunConfig(optimizer=kind()).optimizer) is kind


def test_muon_is_what_nobody_has_to_name():
    assert type(read(learning_rate=0.01)) is MuonConfig


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        ({"algorithm": "rmsprop"}, "expected tags: 'muon', 'adam_w', 'adam', 'sgd', 'lion'"),
        ({"algorithm": "adam_w", "momentum": 0.9}, "not permitted"),
        ({"algorithm": "sgd", "beta1": 0.9}, "not permitted"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"learning_rate_scales": {"heads": 2.0}}, "Input should be 'matrix', 'embedding', 'head' or 'vector'"),
        ({"learning_rate_scales": {"head": -1}}, "greater than or equal to 0"),
        ({"ema_decay": 1}, "less than 1"),
        ({"algorithm": "sgd", "nesterov": True, "momentum": 0}, "needs momentum above 0"),
    ],
)
def test_wrong_settings_are_refused(optimizer, said):
    with pytest.raises(ValidationError) as caught:
        read(**optimizer)
    assert said in str(caught.value)


def test_rates_can_be_scaled_by_kind_of_parameter():
    assert read(learning_rate_scales={"matrix": 0, "vector": 2}).learning_rate_scales == {"matrix": 0, "vector": 2}


@pytest.mark.parametrize("share", [0, 1.5])
def test_a_decay_lasts_a_share_of_the_run(share):
    with pytest.raises(ValidationError):
        SchedulerConfig(decay_fraction=share)


@pytest.mark.parametrize(
    ("name", "value", "users"),
    [
        ("decay_fraction", 0.5, ["wsd"]),
        ("power", 2.0, ["polynomial"]),
        ("min_lr", 0.1, ["cosine", "cosine_with_warmup", "polynomial", "wsd"]),
    ],
)
def test_a_setting_that_a_strategy_does_not_use_is_refused(name, value, users):
    for strategy in ("constant", "linear_warmup", "cosine", "cosine_with_warmup", "polynomial", "wsd"):
        default = SchedulerConfig.model_fields[name].default
        SchedulerConfig.model_validate({"strategy": strategy, name: default})
        if strategy in users:
            SchedulerConfig.model_validate({"strategy": strategy, name: value})
        else:
            with pytest.raises(
                ValidationError, match=f"{name}={value:g} changes nothing with strategy: {strategy}"
            ):
                SchedulerConfig.model_validate({"strategy": strategy, name: value})
