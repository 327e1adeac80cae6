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
    ],
)
def test_wrong_settings_are_refused(optimizer, said):
    with pytest.raises(ValidationError) as caught:
        read(**optimizer)
    assert said in str(caught.value)


def test_rates_can_be_scaled_by_kind_of_parameter():
    assert read(learning_rate_scales={"head": 0, "vector": 2}).learning_rate_scales == {"head": 0.0, "vector": 2.0}


@pytest.mark.parametrize("share", [0, 1.5])
def test_a_decay_lasts_a_share_of_the_run(share):
    with pytest.raises(ValidationError):
        SchedulerConfig(decay_fraction=share)
