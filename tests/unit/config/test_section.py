import types
from typing import Union, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

import candlewick.config
from candlewick.config import AdamWConfig, ModelConfig, RunConfig, Section

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


def test_nothing_can_be_changed_later():
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().model.hidden_size = 3


def test_messages_never_echo_the_input():
    with pytest.raises(ValidationError) as caught:
        ModelConfig.model_validate_json('{"hidden_size": "secret"}')
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_numbers_are_finite(value):
    with pytest.raises(ValidationError, match="finite number"):
        AdamWConfig.model_validate_json(f'{{"learning_rate": {value}}}')
