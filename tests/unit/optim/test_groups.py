import logging
import re

import pytest
import torch
from tests.model_variants import parameter_names

from candlewick.config import AdamWConfig, ModelConfig
from candlewick.errors import ConfigError
from candlewick.model.transformer import Transformer
from candlewick.optim.groups import ROLES, param_groups, report_excluded, role


def parameters(**settings):
    with torch.device("meta"):
        model = Transformer(ModelConfig(**{"tie_word_embeddings": False, **settings}), 64)
    return list(model.named_parameters())


def test_role_table_matches_every_parameter_once():
    names = parameter_names()
    for name in names:
        assert sum(bool(re.fullmatch(pattern, name)) for pattern in ROLES) == 1, name
    for pattern in ROLES:
        assert any(re.fullmatch(pattern, name) for name in names), pattern


def test_parameter_roles_follow_the_shapes():
    for name, parameter in parameters():
        assert (role(name) == "vector") == (parameter.ndim == 1)
    assert role("model.embed_tokens.weight") == "embedding"
    assert role("lm_head.weight") == "head"
    assert sum(role(name) == "matrix" for name, _ in parameters()) == 7 * 6


def test_role_refuses_an_unknown_parameter_name():
    with pytest.raises(ValueError, match="parameter 'model.gate' matches 0 rows"):
        role("model.gate")


def of_role(config, **settings):
    """Role -> its group, told by the first parameter in it."""
    named = parameters(**settings)
    by_id = {id(parameter): name for name, parameter in named}
    return {role(by_id[id(group["params"][0])]): group for group in param_groups(named, config, 0.5)}


def test_param_groups_hold_every_parameter_by_role():
    found = of_role(AdamWConfig())
    assert list(found) == ["matrix", "embedding", "head", "vector"]
    assert sum(len(group["params"]) for group in found.values()) == len(parameters())
    assert list(of_role(AdamWConfig(), tie_word_embeddings=True)) == ["matrix", "embedding", "vector"]


def test_vectors_decay_only_with_decay_all():
    decays = {kind: group["weight_decay"] for kind, group in of_role(AdamWConfig()).items()}
    assert decays == {"matrix": 0.1, "embedding": 0.1, "head": 0.1, "vector": 0.0}
    assert {group["weight_decay"] for group in of_role(AdamWConfig(decay="all")).values()} == {0.1}


def test_peak_learning_rate_of_a_role_is_scaled():
    found = of_role(AdamWConfig(learning_rate_scales={"head": 2.0, "vector": 0.0}))
    assert {kind: group["peak_lr"] for kind, group in found.items()} == {
        "matrix": 0.5,
        "embedding": 0.5,
        "head": 1.0,
        "vector": 0.0,
    }


def test_excluded_parameters_are_a_group_of_their_own_that_does_not_decay():
    config = AdamWConfig(decay="all", weight_decay_exclude=("*embed_tokens*", "*.mlp.*", "model.norm.weight"))
    named = parameters()
    names = {id(parameter): name for name, parameter in named}
    groups = param_groups(named, config, 0.5)
    assert sum(len(group["params"]) for group in groups) == len(named)
    decays = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    free = {name for name in decays if ".mlp." in name} | {"model.embed_tokens.weight", "model.norm.weight"}
    assert decays == {name: 0.0 if name in free else 0.1 for name in decays}


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("norm", r"did you mean '\*norm\*'\?"),
        ("model.embed_token.weight", r"did you mean 'model\.embed_tokens\.weight'"),
        ("MODEL.NORM.WEIGHT", r"did you mean 'model\.embed_tokens\.weight' or "),
    ],
)
def test_pattern_that_matches_no_parameter_is_refused_with_near_names(pattern, near):
    names = [name for name, _ in parameters()]
    with pytest.raises(ConfigError, match=rf"weight_decay_exclude: '{pattern}' matches the name of no .*{near}"):
        report_excluded(names, AdamWConfig(weight_decay_exclude=("*", pattern)))


def test_excluded_parameters_are_counted_in_the_log(caplog):
    config = AdamWConfig(weight_decay_exclude=("*.mlp.*", "lm_head.weight"))
    with caplog.at_level(logging.INFO):
        report_excluded([name for name, _ in parameters(num_layers=2)], config)
    key = "optimizer.weight_decay_exclude"
    assert [record.getMessage() for record in caplog.records] == [
        f"{key}: *.mlp.* matches 6 of 25 parameters, which do not decay: model.layers.0.mlp.gate_proj.weight, ...",
        f"{key}: lm_head.weight matches 1 of 25 parameters, which do not decay: lm_head.weight",
    ]
