import math

import pytest
import torch
from torch import nn

from candlewick.config import MuonConfig
from candlewick.optim import muon as module
from candlewick.optim.muon import COEFFICIENTS, Muon, orthogonalize

SHAPES = {"a": (6, 10), "b": (6, 10), "c": (10, 6), "d": (8, 8)}


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


def reference_polynomial(matrix: torch.Tensor, steps: int) -> torch.Tensor:
    """The same quintic, applied to the singular values of one matrix in float64."""
    a, b, c = COEFFICIENTS
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / matrix.double().norm()
    for _ in range(steps):
        values = a * values + b * values**3 + c * values**5
    return left @ torch.diag(values) @ right


@pytest.mark.parametrize("shape", [(3, 6, 10), (2, 10, 6), (1, 8, 8), (2, 1, 5)])
@pytest.mark.parametrize("steps", [1, 5])
def test_it_is_the_quintic_of_the_singular_values(shape, steps):
    stack = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = orthogonalize(stack, steps)
    expected = torch.stack([reference_polynomial(matrix, steps) for matrix in stack])
    assert torch.allclose(ours, expected, rtol=1e-9, atol=1e-9)
    assert torch.allclose(orthogonalize(stack.float(), steps).double(), expected, atol=1e-4)


def test_singular_values_come_near_one_and_directions_stay():
    matrix = torch.randn(1, 32, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrix[0], full_matrices=False)
    values = torch.linalg.svdvals(orthogonalize(matrix, 5)[0])
    assert 0.6 < values.min() <= values.max() < 1.3
    assert ((left.mT @ orthogonalize(matrix, 5)[0] @ right.mT).diagonal() > 0.6).all()


def test_scale_does_not_matter_and_zero_stays_zero():
    matrix = torch.randn(1, 4, 6, dtype=torch.float64)
    assert torch.allclose(orthogonalize(1e-3 * matrix, 5), orthogonalize(1e3 * matrix, 5))
    assert (orthogonalize(torch.zeros(2, 4, 6), 5) == 0).all()


def test_steps_are_those_of_the_definition_in_float64():
    config = MuonConfig(weight_decay=0.1, momentum=0.9)
    parameters = matrices()
    expected = {name: p.detach().clone() for name, p in parameters.items()}
    momentum = {name: torch.zeros_like(p) for name, p in expected.items()}
    muon = Muon(parameters, config)
    muon.learning_rate = 0.05
    for seed in range(3):
        set_gradients(parameters, seed)
        muon.step()
        for name, parameter in parameters.items():
            momentum[name] = 0.9 * momentum[name] + 0.1 * parameter.grad
            update = reference_polynomial(0.9 * momentum[name] + 0.1 * parameter.grad, 5)
            rows, columns = parameter.shape
            expected[name] = (1 - 0.05 * 0.1) * expected[name] - 0.05 * math.sqrt(max(1, rows / columns)) * update
    for name, parameter in parameters.items():
        assert torch.allclose(parameter, expected[name], rtol=1e-9, atol=1e-9)
        assert torch.allclose(muon.state()[f"{name}.momentum_buffer"], momentum[name], rtol=1e-12)


def test_it_agrees_with_torchs_muon_within_its_bfloat16():
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


def test_gradients_that_are_not_finite_change_nothing():
    parameters = matrices(torch.float32)
    muon = Muon(parameters, MuonConfig())
    set_gradients(parameters, 0)
    muon.step(torch.tensor(0.0))
    weights = {name: p.detach().clone() for name, p in parameters.items()}
    state = {name: tensor.clone() for name, tensor in muon.state().items()}
    set_gradients(parameters, 1)
    parameters["a"].grad[0, 0] = math.nan
    parameters["d"].grad[1] = math.inf
    muon.step(torch.tensor(1.0))
    assert all(torch.equal(p, weights[name]) for name, p in parameters.items())
    assert all(torch.equal(tensor, state[name]) for name, tensor in muon.state().items())


def test_a_flag_that_says_finite_changes_no_bit():
    with_flag, without = matrices(torch.float32), matrices(torch.float32)
    first, second = Muon(with_flag, MuonConfig()), Muon(without, MuonConfig())
    for seed in range(2):
        set_gradients(with_flag, seed)
        set_gradients(without, seed)
        first.step(torch.tensor(0.0))
        second.step()
    assert all(torch.allclose(with_flag[name], without[name], rtol=1e-6, atol=1e-7) for name in SHAPES)


def test_a_missing_gradient_is_an_error():
    parameters = matrices()
    set_gradients(parameters, 0)
    parameters["b"].grad = None
    with pytest.raises(RuntimeError, match="b has no gradient"):
        Muon(parameters, MuonConfig()).step()


def test_a_part_of_a_matrix_is_refused(monkeypatch):
    monkeypatch.setattr(module, "own_part", lambda tensor: tensor[:2])
    with pytest.raises(ValueError, match="a is split over ranks"):
        Muon(matrices(), MuonConfig())
