import json
import re

import pytest
from pydantic import ValidationError

from candlewick.config import RunConfig
from candlewick.config.load import load_config
from candlewick.errors import ConfigError


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


@pytest.mark.parametrize(
    ("file", "override", "fix"),
    [
        ("extends: demo", "scheduler.strategy=constant", "scheduler.decay_fraction=0.4"),
        ("scheduler: {min_lr: 1e-4}", "scheduler.strategy=constant", "scheduler.min_lr=0"),
        ("scheduler: {strategy: polynomial, power: 2.0}", "scheduler.strategy=cosine", "scheduler.power=1"),
        ("data: {shuffle_buffer_size: 9}", "data.order=global", "data.shuffle_buffer_size=null"),
        ("model: {mlp_bias: false, qk_norm: false}", "model.mlp=silu", "model.mlp_bias=true"),
        (
            "model: {sliding_window: 8, full_attention_every: 2}",
            "model.sliding_window=null",
            "model.full_attention_every=null",
        ),
        ("model: {rope_scaling: {rope_type: ntk, alpha: 2}}", "model.rope_mode=off", "model.rope_scaling=null"),
        ("model: {partial_rotary_factor: 0.5}", "model.rope_mode=off", "model.partial_rotary_factor=1"),
        ("tokenizer: {special_tokens: s.txt}", "tokenizer.vocab=null", "tokenizer.special_tokens=null"),
        ("data: {sequence_length: 64}", "model.max_position_embeddings=32", "data.sequence_length=null"),
        ("optimizer: {algorithm: sgd, nesterov: true}", "optimizer.momentum=0", "optimizer.nesterov=false"),
    ],
)
def test_fix_of_a_setting_that_an_override_contradicts_is_an_override_that_works(tmp_path, file, override, fix):
    path = tmp_path / "c.yaml"
    path.write_text(file)
    with pytest.raises(ConfigError, match=re.escape(fix)):
        load_config(path, [override])
    load_config(path, [override, fix])
