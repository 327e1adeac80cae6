import math
from collections.abc import Sequence

import pytest
import torch
from tests.gradients import gradient_of
from torch import nn

from candlewick.config import MuonConfig
from candlewick.optim import chunks
from candlewick.optim import muon as module
from candlewick.optim.muon import Muon

SHAPES = {"a": (6, 10), "b": (6, 10), "c": (10, 6), "d": (8, 8)}
PLAIN = MuonConfig(weight_decay=0.1, momentum=0.9)
RATES = [0.05, 0.02, 0.1]


def matrices(dtype=torch.float64) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        for name, shape in SHAPES.items()
    }


def set_gradients(parameters, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype)


def run(config, dtype=torch.float64, seeds: Sequence[int] = range(3), found_inf=None):
    parameters = matrices(dtype)
    muon = Muon(parameters, config)
    for seed in seeds:
        set_gradients(parameters, seed)
        muon.learning_rate = RATES[seed]
        muon.step(found_inf)
    return parameters, muon


def quintic(matrix):
    """Muon's polynomial, five times, of the singular values of one matrix."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / matrix.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ torch.diag(values) @ right


def defined(config, name, gradients):
    """One matrix after the updates of the definition, number by number, with its momentum."""
    weight = matrices()[name].detach()
    momentum, second = torch.zeros_like(weight), torch.zeros(len(weight), 1, dtype=torch.float64)
    rows, columns = weight.shape
    for rate, gradient in zip(RATES, gradients, strict=True):
        momentum = config.momentum * momentum + (1 - config.momentum) * gradient
        update = quintic(config.momentum * momentum + (1 - config.momentum) * gradient)
        if config.normuon_beta2 is not None:
            second = config.normuon_beta2 * second + (1 - config.normuon_beta2) * (update**2).mean(1, keepdim=True)
            even = update / second.sqrt()
            update = even * update.norm() / even.norm()
        decayed = weight * config.weight_decay
        if config.cautious_decay:
            decayed = torch.where(weight.sign() == update.sign(), decayed, 0.0)
        weight = weight - rate * decayed - rate * math.sqrt(max(1, rows / columns)) * update
    return weight, momentum, second


def gradients_of(name):
    found = []
    for seed in range(3):
        parameters = matrices()
        set_gradients(parameters, seed)
        found.append(parameters[name].grad)
    return found


@pytest.mark.parametrize(
    ("mode", "changes"),
    [
        ("optimizer.algorithm=muon", {}),
        ("optimizer.normuon_beta2", {"normuon_beta2": 0.9}),
        ("optimizer.cautious_decay=true", {"cautious_decay": True}),
        ("optimizer.cautious_decay=true", {"cautious_decay": True, "normuon_beta2": 0.9}),
    ],
)
def test_muon_equals_its_definition_in_float64(mode, changes, core_row):
    config = PLAIN.replaced(**changes)
    parameters, muon = run(config)
    errors = []
    for name, parameter in parameters.items():
        weight, momentum, second = defined(config, name, gradients_of(name))
        errors.append(((parameter - weight).abs().max() / weight.abs().max()).item())
        assert torch.allclose(muon.state()[f"{name}.momentum_buffer"], momentum, rtol=1e-12)
        if config.normuon_beta2 is not None:
            assert torch.allclose(muon.state()[f"{name}.second_momentum_buffer"], second[:, 0], rtol=1e-8)
    extra = ", with normuon_beta2" if len(changes) > 1 else ""
    core_row(mode, f"the definition by singular values, float64{extra}", max(errors), 1e-9)


def test_normuon_equalizes_row_sizes_and_keeps_the_norm():
    config = MuonConfig(weight_decay=0.0, normuon_beta2=0.5)
    (even, _), (plain, _) = (run(c, seeds=[0]) for c in (config, config.replaced(normuon_beta2=None)))
    for name, start in matrices().items():
        moved = even[name] - start
        assert torch.allclose(moved.norm(dim=1), moved.norm(dim=1).mean())
        assert torch.allclose(moved.norm(), (plain[name] - start).norm())


def test_muon_without_options_equals_the_plain_rule_bitwise():
    parameters, _ = run(PLAIN, torch.float32)
    for name in SHAPES:
        weight, momentum = matrices(torch.float32)[name].detach()[None], torch.zeros(1, *SHAPES[name])
        for rate, gradient in zip(RATES, gradients_of(name), strict=True):
            grad = gradient.float()[None]
            momentum.lerp_(grad, 1 - 0.9)
            x = grad.lerp(momentum, 0.9)
            x = x.mT if name == "c" else x
            x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
            for _ in range(5):
                square = torch.bmm(x, x.mT)
                x = torch.baddbmm(
                    x, torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315), x, beta=3.4445
                )
            x = x.mT if name == "c" else x
            rows, columns = SHAPES[name]
            weight = weight * (1 - rate * 0.1) + x * (-rate * math.sqrt(max(1, rows / columns)))
        assert torch.equal(parameters[name], weight[0]), name


@pytest.mark.parametrize("changes", [{}, {"normuon_beta2": 0.9, "cautious_decay": True}])
def test_muon_with_stacks_of_one_matrix_is_equal_bitwise(changes, monkeypatch):
    config = PLAIN.replaced(**changes)
    expected, one_per_shape = run(config, torch.float32)
    monkeypatch.setattr(chunks, "MAX_NUMBERS", 1)
    found, many = run(config, torch.float32)
    assert len(many.stacks) == len(SHAPES) > len(one_per_shape.stacks)
    assert all(torch.equal(found[name], expected[name]) for name in SHAPES)
    assert many.state().keys() == one_per_shape.state().keys()
    assert all(torch.equal(tensor, one_per_shape.state()[name]) for name, tensor in many.state().items())


@pytest.mark.parametrize("changes", [{}, {"normuon_beta2": 0.9, "cautious_decay": True}])
def test_muon_update_allocates_at_most_four_times_the_largest_stack(changes, allocated_bytes, monkeypatch):
    monkeypatch.setattr(chunks, "MAX_NUMBERS", 2 * 32 * 64)
    parameters = {str(i): nn.Parameter(torch.randn(32, 64)) for i in range(20)}
    set_gradients(parameters, 0)
    muon = Muon(parameters, MuonConfig(**changes))
    with allocated_bytes() as allocated:
        muon.step(torch.tensor(0.0))
    largest = max(stack.momentum.nbytes for stack in muon.stacks)
    assert largest <= allocated.peak <= 4.01 * largest
    assert allocated.peak < 0.5 * sum(parameter.nbytes for parameter in parameters.values())


def test_muon_agrees_with_torch_optim_muon_within_bfloat16():
    ours, theirs = matrices(torch.float32), matrices(torch.float32)
    config = MuonConfig(learning_rate=0.1, weight_decay=0.1, momentum=0.95)
    muon = Muon(ours, config)
    oracle = torch.optim.Muon(theirs.values(), lr=0.1, weight_decay=0.1, momentum=0.95)
    for seed in range(3):
        set_gradients(ours, seed)
        set_gradients(theirs, seed)
        muon.step()
        oracle.step()
    start = matrices(torch.float32)
    for name, parameter in ours.items():
        moved, error = (parameter - start[name]).norm(), (parameter - theirs[name]).norm()
        assert error < 0.02 * moved


@pytest.mark.parametrize("changes", [{}, {"normuon_beta2": 0.95, "cautious_decay": True}])
@pytest.mark.parametrize("updates", [0, 1])
def test_muon_skips_non_finite_gradients(changes, updates):
    parameters, muon = run(MuonConfig(**changes), torch.float32, range(updates), torch.tensor(0.0))
    weights = {name: p.detach().clone() for name, p in parameters.items()}
    state = {name: tensor.clone() for name, tensor in muon.state().items()}
    set_gradients(parameters, 1)
    gradient_of(parameters["a"])[0, 0] = math.nan
    gradient_of(parameters["d"])[1] = math.inf
    muon.step(torch.tensor(1.0))
    assert all(torch.equal(p, weights[name]) for name, p in parameters.items())
    assert all(torch.equal(tensor, state[name]) for name, tensor in muon.state().items())


@pytest.mark.parametrize("changes", [{}, {"normuon_beta2": 0.95, "cautious_decay": True}])
def test_muon_with_found_inf_zero_changes_nothing(changes):
    with_flag, _ = run(MuonConfig(**changes), torch.float32, found_inf=torch.tensor(0.0))
    without, _ = run(MuonConfig(**changes), torch.float32)
    assert all(torch.allclose(with_flag[name], without[name], rtol=1e-6, atol=1e-7) for name in SHAPES)


def test_muon_with_a_zero_gradient_only_decays():
    parameters = matrices()
    muon = Muon(parameters, MuonConfig(weight_decay=0.1, normuon_beta2=0.95))
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    muon.learning_rate = 0.1
    muon.step()
    assert all(torch.allclose(p, 0.99 * matrices()[name]) for name, p in parameters.items())


def test_muon_refuses_a_missing_gradient():
    parameters = matrices()
    set_gradients(parameters, 0)
    parameters["b"].grad = None
    with pytest.raises(RuntimeError, match="b has no gradient"):
        Muon(parameters, MuonConfig()).step()


def test_muon_refuses_a_sharded_matrix(monkeypatch):
    monkeypatch.setattr(module, "local_tensor", lambda tensor: tensor[:2])
    with pytest.raises(ValueError, match="a is split over ranks"):
        Muon(matrices(), MuonConfig())


def test_cautious_decay_shrinks_weights_whose_update_is_zero():
    parameters = matrices()
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    muon = Muon(parameters, MuonConfig(weight_decay=0.1, cautious_decay=True))
    muon.learning_rate = 0.5
    muon.step()
    for name, parameter in parameters.items():
        assert torch.allclose(parameter, before[name] * (1 - 0.5 * 0.1), rtol=1e-12)
