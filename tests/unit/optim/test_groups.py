import re

import pytest
import torch

from candlewick.config import ModelConfig
from candlewick.model.transformer import Transformer
from candlewick.optim.groups import TABLE, decays, role


def names() -> set[str]:
    found = set()
    for settings in ({"qk_norm": False, "attention_bias": True, "mlp_bias": True}, {"qk_norm": True}):
        with torch.device("meta"):
            model = Transformer(ModelConfig(tie_word_embeddings=False, **settings), 64)
        found |= {name for name, _ in model.named_parameters()}
    return found


def test_every_parameter_has_one_role_and_every_row_a_parameter():
    for name in names():
        assert sum(bool(re.fullmatch(pattern, name)) for pattern in TABLE) == 1, name
    for pattern in TABLE:
        assert any(re.fullmatch(pattern, name) for name in names()), pattern


def test_roles_follow_the_shapes():
    with torch.device("meta"):
        model = Transformer(ModelConfig(tie_word_embeddings=False), 64)
    for name, parameter in model.named_parameters():
        assert (role(name) == "vector") == (parameter.ndim == 1)
    assert role("model.embed_tokens.weight") == "embedding"
    assert role("lm_head.weight") == "head"
    assert sum(role(name) == "matrix" for name, _ in model.named_parameters()) == 7 * 6


def test_vectors_decay_only_when_all_do():
    assert not decays("model.norm.weight", "matrices")
    assert decays("model.norm.weight", "all")
    assert decays("model.embed_tokens.weight", "matrices")


def test_an_unknown_name_is_an_error():
    with pytest.raises(ValueError, match="parameter 'model.gate' matches 0 rows"):
        role("model.gate")
