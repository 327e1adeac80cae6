import types
from typing import Union, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

import candlewick.config
from candlewick.config import AdamWConfig, ModelConfig, RunConfig, Section
from candlewick.errors import ConfigError

SECTIONS = [
    value
    for value in vars(candlewick.config).values()
    if isinstance(value, type) and issubclass(value, Section) and value is not Section
]


def holds_a_section(annotation) -> bool:
    if get_origin(annotation) in (Union, types.UnionType, tuple):
        return any(map(holds_a_section, get_args(annotation)))
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_and_every_setting_in_it_is_documented(section):
    silent = [
        key
        for key, field in section.model_fields.items()
        if not field.description
        and key not in ("algorithm", "rope_type")
        and not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel))
        and section is not RunConfig
    ]
    assert not silent, f"keys of {section.__name__} without a docstring below them"
    assert section.__doc__


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_is_strict(section):
    settings = section.model_config
    assert (settings["extra"], settings["frozen"], settings["strict"]) == ("forbid", True, True)
    assert settings["allow_inf_nan"] is False


def test_sections_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().model.hidden_size = 3


def test_validation_messages_never_echo_the_input():
    with pytest.raises(ValidationError) as caught:
        ModelConfig.model_validate_json('{"hidden_size": "secret"}')
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_sections_refuse_numbers_that_are_not_finite(value):
    with pytest.raises(ValidationError, match="finite number"):
        AdamWConfig.model_validate_json(f'{{"learning_rate": {value}}}')


def test_replaced_validates_the_copy():
    config = RunConfig()
    assert config.replaced(runtime={"checkpoint": {"max_keep": 7}}).runtime.checkpoint.max_keep == 7
    for changes, said in (
        ({"data": {"micro_batch_size": -3}}, "micro_batch_size: Input should be greater"),
        ({"data": {"moon": 1}}, "moon: Extra inputs"),
        ({"scheduler": {"min_lr": 1.0}}, "is more than the peak"),
        ({"moon": 1}, "moon: Extra inputs"),
    ):
        with pytest.raises(ConfigError, match=said):
            config.replaced(**changes)


def test_replaced_derives_defaults_and_keeps_fields_set():
    model = ModelConfig(hidden_size=64, num_attention_heads=2)
    assert model.replaced(hidden_size=128).head_dim == 64
    assert model.replaced(num_layers=3).model_fields_set == {"hidden_size", "num_attention_heads", "num_layers"}
    assert ModelConfig(head_dim=8).replaced(hidden_size=128).head_dim == 8
