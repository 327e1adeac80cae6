from typing import Any, get_args

import pytest
import torch
from tests.gradients import gradient_of

from candlewick.config import (
    AdamConfig,
    AdamWConfig,
    LionConfig,
    ModelConfig,
    MuonConfig,
    Role,
    RunConfig,
    SGDConfig,
)
from candlewick.errors import CheckpointError, ConfigError
from candlewick.model.initialize import initialize
from candlewick.model.transformer import Transformer
from candlewick.optim.build import OPTIMIZERS, build_optimizer
from candlewick.optim.groups import role

CONFIGS: list[Any] = [
    *(kind() for kind in OPTIMIZERS),
    MuonConfig(normuon_beta2=0.95, coefficients="polar_express", cautious_decay=True, decay="all", ema_decay=0.9),
    AdamWConfig(decay="all", ema_decay=0.9),
    AdamConfig(weight_decay=0.1),
    SGDConfig(nesterov=True),
    SGDConfig(momentum=0.0, ema_decay=0.5),
    LionConfig(ema_decay=0.9),
]
TABLE, NORM = "model.embed_tokens.weight", "model.norm.weight"
MATRIX = "model.layers.0.mlp.up_proj.weight"


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


def averages_of(optimizer):
    return {} if optimizer.average is None else optimizer.average.averages


def copies(tensors):
    return {name: tensor.clone() for name, tensor in tensors.items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def random_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


EXCLUDED = {TABLE, NORM, "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"}
PATTERNS = ("*embed_tokens*", "model.norm.weight", "model.layers.*.mlp.up_proj.weight")


def decays(config, name):
    is_excluded = config.weight_decay_exclude == PATTERNS and name in EXCLUDED
    return not is_excluded and (config.decay == "all" or role(name) != "vector")


def oracle(config, named):
    """Torch's own optimizer, not fused, on float64 copies, one group per parameter."""
    groups = [
        {
            "params": [tensor],
            "lr": config.learning_rate * config.learning_rate_scales.get(role(name), 1.0),
            "weight_decay": config.weight_decay if decays(config, name) else 0.0,
        }
        for name, tensor in named.items()
    ]
    kind = torch.optim.Adam if isinstance(config, AdamConfig) else torch.optim.AdamW
    return kind(groups, betas=(config.beta1, config.beta2), eps=config.epsilon, foreach=False)


SCALES: dict[Role, float] = {"matrix": 0.5, "embedding": 2.0, "head": 0.25, "vector": 0.0}


@pytest.mark.parametrize(
    ("mode", "config"),
    [
        ("optimizer.algorithm=adam_w", AdamWConfig(learning_rate=0.01)),
        ("optimizer.algorithm=adam", AdamConfig(learning_rate=0.01, weight_decay=0.1)),
        ("optimizer.decay=matrices", AdamWConfig(learning_rate=0.01, decay="matrices")),
        ("optimizer.decay=all", AdamWConfig(learning_rate=0.01, decay="all")),
        (
            "optimizer.weight_decay_exclude",
            AdamWConfig(learning_rate=0.01, decay="all", weight_decay_exclude=PATTERNS),
        ),
        ("optimizer.learning_rate_scales", AdamWConfig(learning_rate=0.01, learning_rate_scales=SCALES)),
    ],
)
def test_updates_equal_those_of_torch_optim(mode, config, core_row):
    model, optimizer = build(config, tie_word_embeddings=False)
    expected = {name: torch.nn.Parameter(tensor.double()) for name, tensor in weights(model).items()}
    reference = oracle(config, expected)
    for seed in range(4):
        random_gradients(model, seed)
        for name, parameter in model.named_parameters():
            expected[name].grad = gradient_of(parameter).double()
        optimizer.step()
        reference.step()
    largest = max(tensor.abs().max() for tensor in expected.values())
    errors = [(found - expected[name]).abs().max() / largest for name, found in weights(model).items()]
    kind = type(reference).__name__
    core_row(mode, f"torch.optim.{kind}, float64, not fused", max(errors).item(), 1e-6)


def test_every_optimizer_config_has_an_optimizer():
    kinds = {get_args(kind)[0] for kind in get_args(RunConfig.model_fields["optimizer"].annotation)}
    assert kinds == OPTIMIZERS.keys(), "optim/build.py: OPTIMIZERS and OptimizerConfig differ"


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_restored_optimizer_continues_bitwise(config):
    model, optimizer = build(config)
    for seed in range(3):
        optimizer.set_lr(1 / (1 + seed))
        step(model, optimizer, seed)
    saved = copies(optimizer.named_state())
    other, resumed = build(config, seed=9)
    with optimizer.average_parameters():  # what a checkpoint holds
        other.load_state_dict(model.state_dict())
    resumed.load_named_state(saved)
    for seed in range(3, 6):
        for pair in ((model, optimizer), (other, resumed)):
            pair[1].set_lr(0.5)
            step(*pair, seed)
    assert equal(weights(model), weights(other))
    assert equal(optimizer.named_state(), resumed.named_state())
    assert equal(averages_of(optimizer), averages_of(resumed))


@pytest.mark.parametrize(
    ("config", "kinds", "matrix_kinds"),
    [
        (AdamWConfig(), {"step", "exp_avg", "exp_avg_sq"}, None),
        (AdamConfig(), {"step", "exp_avg", "exp_avg_sq"}, None),
        (SGDConfig(), {"momentum_buffer"}, None),
        (LionConfig(), {"exp_avg"}, None),
        (LionConfig(ema_decay=0.9), {"exp_avg", "last"}, None),
        (MuonConfig(), {"step", "exp_avg", "exp_avg_sq"}, {"momentum_buffer"}),
        (
            MuonConfig(normuon_beta2=0.9, ema_decay=0.9),
            {"step", "exp_avg", "exp_avg_sq", "last"},
            {"momentum_buffer", "second_momentum_buffer", "last"},
        ),
    ],
    ids=str,
)
def test_optimizer_state_is_complete_before_the_first_update(config, kinds, matrix_kinds):
    model, optimizer = build(config)
    before = copies(optimizer.named_state())
    assert before.keys() == {
        f"{name}.{kind}"
        for name in weights(model)
        for kind in (matrix_kinds if matrix_kinds and role(name) == "matrix" else kinds)
    }
    for name, tensor in before.items():
        parameter, kind = name.rsplit(".", 1)
        assert torch.equal(tensor, weights(model)[parameter]) if kind == "last" else (tensor == 0).all()
    step(model, optimizer, 0)
    after = optimizer.named_state()
    assert {name: tensor.shape for name, tensor in after.items()} == {
        name: tensor.shape for name, tensor in before.items()
    }
    assert after.get(f"{NORM}.step", 1) == 1


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("updates", [0, 1])
def test_optimizer_skips_an_update_with_non_finite_gradients(config, updates):
    model, optimizer = build(config)
    for seed in range(updates):
        step(model, optimizer, seed, torch.tensor(0.0))
    before, state, averages = weights(model), copies(optimizer.named_state()), copies(averages_of(optimizer))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    optimizer.step(torch.tensor(1.0))
    assert equal(weights(model), before)
    assert equal(optimizer.named_state(), state)
    assert equal(averages_of(optimizer), averages)
    step(model, optimizer, 1)
    assert not torch.equal(model.model.norm.weight, before[NORM])


def test_every_parameter_is_updated_once_at_the_rate_of_its_role():
    scales: dict[Role, float] = {"matrix": 0.5, "vector": 0.25}
    config = MuonConfig(
        learning_rate=0.02, adam_learning_rate=0.004, weight_decay=0.0, learning_rate_scales=scales
    )
    model, optimizer = build(config)
    optimizer.set_lr(0.5)
    rates = {"embedding": 0.002, "vector": 0.0005}
    assert {group["lr"] for group in optimizer.elementwise.param_groups} == set(rates.values())
    assert optimizer.muon is not None
    assert optimizer.muon.learning_rate == 0.005
    before = weights(model)
    random_gradients(model, 0)
    optimizer.step()
    for name, parameter in weights(model).items():
        moved = (parameter - before[name]).abs().max()
        assert moved > 0, name
        if role(name) != "matrix":  # AdamW's first step is its rate
            assert moved == pytest.approx(rates[role(name)], rel=1e-3), name


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_learning_rate_scale_of_zero_freezes_a_role(config):
    frozen = {"matrix": 0.0, "embedding": 0.0}
    model, optimizer = build(config.replaced(learning_rate_scales=frozen, ema_decay=None))
    before = weights(model)
    for seed in range(2):
        random_gradients(model, seed)
        optimizer.step()
    for name, parameter in weights(model).items():
        assert torch.equal(parameter, before[name]) == (role(name) in frozen), name


@pytest.mark.parametrize("exclude", [(), PATTERNS])
@pytest.mark.parametrize("decay", ["matrices", "all"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_decay_shrinks_every_weight_but_vectors_without_all_and_excluded_ones(kind, decay, exclude):
    config = kind.model_validate({"weight_decay": 0.1, "decay": decay, "weight_decay_exclude": exclude})
    model, optimizer = build(config)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = weights(model)
    optimizer.step()
    for name, parameter in weights(model).items():
        is_decayed = before[name].any() and decays(config, name)
        assert parameter.norm() < before[name].norm() if is_decayed else torch.equal(parameter, before[name]), name


@pytest.mark.parametrize(("decay", "expected"), [("matrices", 1.0), ("all", 0.99)])
@pytest.mark.parametrize("kind", [AdamWConfig, MuonConfig, LionConfig, SGDConfig])
def test_decay_multiplies_by_one_minus_rate_times_decay(kind, decay, expected):
    rates: dict[str, Any] = {"learning_rate": 0.1} | ({"adam_learning_rate": 0.1} if kind is MuonConfig else {})
    model, optimizer = build(kind(weight_decay=0.1, decay=decay, **rates))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = weights(model)
    optimizer.step()
    after = weights(model)
    assert torch.allclose(after[NORM], before[NORM] * expected)
    for name in (TABLE, MATRIX):
        assert torch.allclose(after[name], before[name] * 0.99)


def test_pattern_that_matches_no_parameter_is_refused_when_the_optimizer_is_built():
    with pytest.raises(ConfigError, match=r"did you mean '\*bias\*'"):
        build(MuonConfig(weight_decay_exclude=("bias",)), attention_bias=True, qk_norm=False)


@pytest.mark.parametrize("cautious", [True, False])
def test_matrices_of_muon_differ_from_excluded_ones_by_their_decay_alone(cautious):
    weights_after = []
    for exclude in ((), PATTERNS):
        model, optimizer = build(
            MuonConfig(weight_decay=0.1, cautious_decay=cautious, weight_decay_exclude=exclude)
        )
        before = weights(model)
        random_gradients(model, 0)
        optimizer.step()
        weights_after.append(weights(model))
    decayed, free = weights_after
    for name in filter(lambda name: role(name) == "matrix", decayed):
        change = free[name] - before[name]
        shrink = 0.002 * before[name] * ((before[name] * change <= 0) if cautious else 1)
        expected = free[name] - shrink if name in EXCLUDED else free[name]
        assert torch.allclose(decayed[name], expected, atol=1e-6), name


def test_averaged_puts_the_averages_into_the_parameters():
    model, optimizer = build(LionConfig(ema_decay=0.5))
    start = weights(model)
    step(model, optimizer, 0)
    last, state = weights(model), copies(optimizer.named_state())
    with pytest.raises(KeyError), optimizer.average_parameters():
        assert torch.allclose(weights(model)[TABLE], (start[TABLE] + last[TABLE]) / 2)
        assert equal(weights(model), averages_of(optimizer))
        assert equal(optimizer.named_state(), state)
        raise KeyError
    assert equal(weights(model), last)
    assert not torch.equal(averages_of(optimizer)[TABLE], last[TABLE])


def test_averaged_without_ema_changes_nothing():
    model, optimizer = build(AdamWConfig())
    before = weights(model)
    assert optimizer.average is None
    with optimizer.average_parameters():
        assert equal(weights(model), before)


def test_state_of_another_optimizer_is_refused():
    _, adamw = build(AdamWConfig())
    _, muon = build(MuonConfig())
    _, averaging = build(AdamWConfig(ema_decay=0.9))
    state = adamw.named_state()
    with pytest.raises(CheckpointError, match=r"lacks 14 tensors, model.layers.0.\S+.momentum_buffer for one"):
        muon.load_named_state(state)
    with pytest.raises(CheckpointError, match=r"lacks 24 tensors, model.embed_tokens.weight.last for one"):
        averaging.load_named_state(state)
    with pytest.raises(CheckpointError, match="has 1 tensors, extra for one, that this optimizer does not know"):
        adamw.load_named_state(state | {"extra": torch.zeros(1)})
    bad = state | {f"{NORM}.exp_avg": torch.ones(3)}
    with pytest.raises(CheckpointError, match=r"has shape \(3,\), this optimizer needs \(16,\)"):
        adamw.load_named_state(bad)
    assert all((tensor == 0).all() for tensor in adamw.named_state().values())


def test_zero_grad_drops_gradients():
    model, optimizer = build(AdamWConfig())
    step(model, optimizer, 0)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("config", CONFIGS)
def test_state_lies_on_the_device_of_the_weights_and_counts_in_float32_whatever_the_default(config):
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            model = Transformer(ModelConfig(hidden_size=16, num_layers=1, num_attention_heads=2), 32)
        state = build_optimizer(model, config).named_state()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(tensor.is_meta for tensor in state.values())
    assert {tensor.dtype for name, tensor in state.items() if name.endswith(".step")} <= {torch.float32}


@pytest.mark.parametrize("config", CONFIGS)
def test_an_optimizer_begins_at_its_peak_learning_rates(config):
    optimizer = build_optimizer(build(config)[0], config)
    assert all(group["lr"] == group["peak_lr"] > 0 for group in optimizer.elementwise.param_groups)
    assert optimizer.muon is None or optimizer.muon.learning_rate == optimizer.muon.peak_lr == config.learning_rate
