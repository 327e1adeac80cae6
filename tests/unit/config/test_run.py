import json

import pytest
from pydantic import ValidationError

from candlewick.config import RunConfig


def read(**tree) -> RunConfig:
    return RunConfig.model_validate_json(json.dumps(tree))


def test_default_config_is_valid_and_survives_json():
    config = RunConfig()
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"data": {"sequence_length": 513}}, "sequence_length=513 exceeds model.max_position_embeddings=512"),
        ({"scheduler": {"total_steps": 1, "total_epochs": 1}}, "more than one end: total_steps, total_epochs"),
        ({"runtime": {"seed": -1}}, "greater than or equal to 0"),
        ({"runtime": {"seed": True}}, "valid integer"),
        ({"runtime": {"deterministic": 1}}, "valid boolean"),
        ({"runtime": {"precision": "int8"}}, "Input should be 'auto', 'fp32', 'bf16', 'fp16' or 'mixed'"),
        ({"runtime": {"sample": {"stop": [""]}}}, "at least 1 character"),
        ({"runtime": {"sample": {"min_p": 0}}}, "greater than 0"),
        ({"runtime": {"checkpoint": {"max_keep": 0}}}, "greater than or equal to 1"),
        ({"run": {}}, "not permitted"),
        ({"optimizer": {"learning_rate_scales": {"head": 2}}}, "head changes nothing: the head is the embedding"),
    ],
)
def test_run_config_refuses_conflicts_between_sections(tree, said):
    with pytest.raises(ValidationError) as caught:
        read(**tree)
    assert said in str(caught.value)


def test_sequence_length_defaults_to_the_context_of_the_model():
    assert RunConfig().sequence_length == 512
    assert read(data={"sequence_length": 100}).sequence_length == 100
