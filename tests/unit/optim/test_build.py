import pytest
import torch

from candlewick.config import AdamWConfig, ModelConfig, MuonConfig
from candlewick.errors import CheckpointError
from candlewick.model.initialize import initialize
from candlewick.model.transformer import Transformer
from candlewick.optim.build import build_optimizer

CONFIGS = [MuonConfig(), AdamWConfig(), AdamWConfig(decay="all"), MuonConfig(decay="all")]


def build(config, seed=0, **changes):
    shape = {"hidden_size": 16, "num_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    model = Transformer(ModelConfig(**{**shape, "max_position_embeddings": 8, **changes}), 32)
    initialize(model, seed)
    return model, build_optimizer(model, config)


def step(model, optimizer, seed, found_inf=None):
    tokens = torch.randint(32, (4, 9), generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    logits = model(tokens[:, :-1])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    optimizer.step(found_inf)


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_going_on_from_a_saved_state_is_going_on(config):
    model, optimizer = build(config)
    for seed in range(3):
        optimizer.set_lr(1 / (1 + seed))
        step(model, optimizer, seed)
    saved = {name: tensor.clone() for name, tensor in optimizer.named_state().items()}
    other, resumed = build(config, seed=9)
    other.load_state_dict(model.state_dict())
    resumed.load_named_state(saved)
    for seed in range(3, 6):
        for pair in ((model, optimizer), (other, resumed)):
            pair[1].set_lr(0.5)
            step(*pair, seed)
    there = weights(other)
    assert all(torch.equal(parameter, there[name]) for name, parameter in weights(model).items())


@pytest.mark.parametrize("config", CONFIGS[:2], ids=str)
def test_the_state_is_complete_from_the_start(config):
    model, optimizer = build(config)
    before = optimizer.named_state()
    muon = isinstance(config, MuonConfig)
    assert before["model.embed_tokens.weight.exp_avg"].shape == (32, 16)
    assert ("model.layers.1.mlp.up_proj.weight.momentum_buffer" in before) == muon
    assert ("model.layers.1.mlp.up_proj.weight.exp_avg" in before) != muon
    assert all((tensor == 0).all() for tensor in before.values())
    step(model, optimizer, 0)
    after = optimizer.named_state()
    assert {name: tensor.shape for name, tensor in after.items()} == {
        name: tensor.shape for name, tensor in before.items()
    }
    assert after["model.norm.weight.step"] == 1


@pytest.mark.parametrize("config", CONFIGS[:2], ids=str)
def test_not_finite_gradients_change_nothing(config):
    model, optimizer = build(config)
    step(model, optimizer, 0, torch.tensor(0.0))
    before, state = weights(model), {name: t.clone() for name, t in optimizer.named_state().items()}
    for parameter in model.parameters():
        parameter.grad.fill_(float("nan"))
    optimizer.step(torch.tensor(1.0))
    assert all(torch.equal(p, before[name]) for name, p in weights(model).items())
    assert all(torch.equal(tensor, state[name]) for name, tensor in optimizer.named_state().items())
    step(model, optimizer, 1)
    assert not torch.equal(model.model.norm.weight, before["model.norm.weight"])


def test_every_parameter_is_updated_once_at_its_own_rate():
    model, optimizer = build(MuonConfig(learning_rate=0.02, adam_learning_rate=0.004, weight_decay=0.0))
    optimizer.set_lr(0.5)
    assert {group["lr"] for group in optimizer.adamw.param_groups} == {0.002}
    assert optimizer.muon.learning_rate == 0.01
    with torch.no_grad():  # at first the outputs are zero, and so would be some gradients
        for parameter in model.parameters():
            parameter.add_(0.1)
    before = weights(model)
    step(model, optimizer, 0)
    for name, parameter in weights(model).items():
        moved = (parameter - before[name]).abs().max()
        assert moved > 0, name
        if "proj" not in name:
            assert moved <= 0.002 * 1.01, name  # AdamW's first step is its rate


@pytest.mark.parametrize(("decay", "expected"), [("matrices", 1.0), ("all", 0.99)])
@pytest.mark.parametrize("kind", [AdamWConfig, MuonConfig])
def test_what_decays(kind, decay, expected):
    rates = {"learning_rate": 0.1} | ({"adam_learning_rate": 0.1} if kind is MuonConfig else {})
    model, optimizer = build(kind(weight_decay=0.1, decay=decay, **rates))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = weights(model)
    optimizer.step()
    after = weights(model)
    vector, table, matrix = (
        "model.norm.weight",
        "model.embed_tokens.weight",
        "model.layers.0.mlp.up_proj.weight",
    )
    assert torch.allclose(after[vector], before[vector] * expected)
    for name in (table, matrix):
        assert torch.allclose(after[name], before[name] * 0.99)


def test_another_optimizers_state_is_refused():
    _, adamw = build(AdamWConfig())
    _, muon = build(MuonConfig())
    state = adamw.named_state()
    with pytest.raises(CheckpointError, match=r"lacks 14 tensors, model.layers.0.\S+.momentum_buffer for one"):
        muon.load_named_state(state)
    with pytest.raises(CheckpointError, match="has 1 tensors, extra for one, that this optimizer does not know"):
        adamw.load_named_state(state | {"extra": torch.zeros(1)})
    bad = state | {"model.norm.weight.exp_avg": torch.ones(3)}
    with pytest.raises(CheckpointError, match=r"has shape \(3,\), this optimizer needs \(16,\)"):
        adamw.load_named_state(bad)
    assert all((tensor == 0).all() for tensor in adamw.named_state().values())


def test_zero_grad_drops_gradients():
    model, optimizer = build(AdamWConfig())
    step(model, optimizer, 0)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())
