import json

import pytest
from pydantic import BaseModel, ValidationError

from candlewick.config import AdamWConfig, ModelConfig, MuonConfig, RunConfig


def read(**tree) -> RunConfig:
    return RunConfig.model_validate_json(json.dumps(tree))


def sections(model: type[BaseModel], name: str = "") -> list[tuple[str, type[BaseModel]]]:
    """Every section of the tree with its dotted name."""
    found = [(name, model)]
    for key, value in model().model_dump().items():
        if isinstance(value, dict):
            found += sections(type(getattr(model(), key)), f"{name}.{key}".strip("."))
    return found


def test_the_defaults_are_valid_and_survive_json():
    config = RunConfig()
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(("name", "section"), [*sections(RunConfig), ("optimizer", AdamWConfig)])
def test_every_key_is_documented(name, section):
    fields = {key: field for key, field in section.model_fields.items() if key != "algorithm"}
    described = [key for key, field in fields.items() if field.description]
    leaves = [key for key in fields if not isinstance(getattr(section(), key), BaseModel)]
    assert set(leaves) <= set(described), f"keys of {name} without a docstring below them"
    assert section.__doc__


@pytest.mark.parametrize(
    ("model", "derived"),
    [
        ({}, (6, 64, 1024)),
        ({"hidden_size": 128, "num_attention_heads": 4}, (4, 32, 320)),
        ({"hidden_size": 100, "num_attention_heads": 8}, (8, 12, 256)),
        ({"hidden_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2}, (2, 2, 64)),
        ({"head_dim": 128, "intermediate_size": 10}, (6, 128, 10)),
    ],
)
def test_widths_follow_from_the_hidden_size(model, derived):
    config = ModelConfig(**model)
    assert (config.num_key_value_heads, config.head_dim, config.intermediate_size) == derived


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (
            {"model": {"num_attention_heads": 4, "num_key_value_heads": 3}},
            "num_attention_heads=4 is not a multiple",
        ),
        ({"model": {"hidden_size": 6, "num_attention_heads": 2}}, "head_dim=3 is odd"),
        ({"model": {"mlp_bias": True}}, "set model.qk_norm: false"),
        ({"model": {"attention_bias": True}}, "set model.qk_norm: false"),
        ({"data": {"global_batch_size": 8, "global_batch_tokens": 8}}, "set one of them"),
        ({"data": {"sequence_length": 513}}, "sequence_length=513 exceeds model.max_position_embeddings=512"),
        ({"scheduler": {"total_steps": 1, "total_epochs": 1}}, "more than one end: total_steps, total_epochs"),
        ({"tokenizer": {"vocab_size": 257}}, "greater than or equal to 258"),
        ({"optimizer": {"learning_rate": 0}}, "greater than 0"),
        ({"runtime": {"seed": -1}}, "greater than or equal to 0"),
        ({"runtime": {"seed": True}}, "valid integer"),
        ({"runtime": {"deterministic": 1}}, "valid boolean"),
        ({"data": {"micro_batch_size": "8"}}, "valid integer"),
        ({"model": {"n_head": 3}}, "not permitted"),
        ({"optimizer": {"algorithm": "adam_w", "momentum": 0.9}}, "not permitted"),
        ({"optimizer": {"algorithm": "sgd"}}, "expected tags: 'muon', 'adam_w'"),
    ],
)
def test_wrong_settings_are_refused(tree, said):
    with pytest.raises(ValidationError) as caught:
        read(**tree)
    assert said in str(caught.value)


def test_messages_never_echo_the_input():
    with pytest.raises(ValidationError) as caught:
        read(model={"hidden_size": "secret"})
    assert "secret" not in str(caught.value)


def test_biases_are_possible_without_qk_norm():
    assert ModelConfig(qk_norm=False, attention_bias=True, mlp_bias=True).mlp_bias


def test_the_optimizer_is_told_by_its_algorithm():
    assert type(read(optimizer={"learning_rate": 0.01}).optimizer) is MuonConfig
    assert type(read(optimizer={"algorithm": "adam_w"}).optimizer) is AdamWConfig
    assert type(RunConfig(optimizer=AdamWConfig()).optimizer) is AdamWConfig


def test_the_sequence_length_is_the_models_unless_given():
    assert RunConfig().sequence_length == 512
    assert read(data={"sequence_length": 100}).sequence_length == 100


def test_nothing_can_be_changed_later():
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().model.hidden_size = 3
