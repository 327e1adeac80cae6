import itertools
import math

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

from candlewick.config import LionConfig, SGDConfig
from candlewick.optim import chunks
from candlewick.optim.elementwise import SGD, Lion

RATES = [0.1, 0.2, 0.05]


def gradient(seed, shape=(7, 5)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(kind, config, dtype=torch.float32, decay=0.1):
    parameter = nn.Parameter(gradient(99).to(dtype))
    return parameter, kind([{"params": [parameter], "weight_decay": decay}], config)


def update(parameter, optimizer, seed, rate=0.1, found_inf=None):
    parameter.grad = gradient(seed).to(parameter.dtype)
    optimizer.param_groups[0]["lr"] = rate
    optimizer.found_inf = found_inf
    optimizer.step()


def error(found, expected):
    return ((found.double() - expected).abs().max() / expected.abs().max()).item()


def test_sgd_equals_torch_optim_sgd(core_row):
    errors: dict[bool, list[float]] = {False: [], True: []}
    for (momentum, ahead), decay in itertools.product(((0.9, False), (0.9, True), (0.0, False)), (0.0, 0.1)):
        parameter, ours = make(SGD, SGDConfig(momentum=momentum, nesterov=ahead), decay=decay)
        expected = nn.Parameter(gradient(99))
        oracle = torch.optim.SGD([expected], momentum=momentum, nesterov=ahead, weight_decay=decay)
        for seed, rate in enumerate(RATES):
            update(parameter, ours, seed, rate)
            expected.grad, oracle.param_groups[0]["lr"] = gradient(seed), rate
            oracle.step()
        errors[ahead].append(error(parameter, expected))
    core_row("optimizer.algorithm=sgd", "torch.optim.SGD, float64, not fused", max(errors[False]), 1e-6)
    core_row("optimizer.nesterov=true", "torch.optim.SGD, float64, not fused", max(errors[True]), 1e-6)


def test_lion_equals_the_algorithm_of_the_paper(core_row):
    parameter, lion = make(Lion, LionConfig(beta1=0.9, beta2=0.99))
    expected, momentum = gradient(99), torch.zeros(7, 5, dtype=torch.float64)
    for seed, rate in enumerate(RATES):
        update(parameter, lion, seed, rate)
        sign = (0.9 * momentum + 0.1 * gradient(seed)).sign()
        expected = expected - rate * (sign + 0.1 * expected)
        momentum = 0.99 * momentum + 0.01 * gradient(seed)
    core_row("optimizer.algorithm=lion", "the paper's algorithm 2, float64", error(parameter, expected), 1e-6)
    assert error(lion.state[parameter]["exp_avg"], momentum) < 1e-6


@pytest.mark.parametrize(("kind", "config"), [(SGD, SGDConfig()), (Lion, LionConfig())])
@pytest.mark.parametrize("updates", [0, 2])
def test_momentum_optimizers_skip_non_finite_gradients(kind, config, updates):
    parameter, optimizer = make(kind, config)
    for seed in range(updates):
        update(parameter, optimizer, seed, found_inf=torch.tensor(0.0))
    (state,) = optimizer.state[parameter].values()
    before = parameter.detach().clone(), state.clone()
    parameter.grad = torch.full_like(parameter, math.nan)
    parameter.grad[0] = math.inf
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert torch.equal(parameter, before[0])
    assert torch.equal(state, before[1])


@pytest.mark.parametrize(("kind", "config"), [(SGD, SGDConfig()), (Lion, LionConfig())])
def test_momentum_optimizers_with_found_inf_zero_change_no_bit(kind, config):
    (with_flag, first), (without, second) = make(kind, config), make(kind, config)
    for seed in range(3):
        update(with_flag, first, seed, found_inf=torch.tensor(0.0))
        update(without, second, seed)
    assert torch.equal(with_flag, without)


@pytest.mark.parametrize(("kind", "config"), [(SGD, SGDConfig()), (Lion, LionConfig())])
def test_sharded_parameter_is_updated_like_an_unsharded_one(kind, config, mesh):
    whole, first = make(kind, config)
    sharded = nn.Parameter(distribute_tensor(gradient(99).float(), mesh, [Replicate()]))
    second = kind([{"params": [sharded], "weight_decay": 0.1}], config)
    for seed in range(2):
        update(whole, first, seed, found_inf=torch.tensor(0.0))
        sharded.grad = distribute_tensor(gradient(seed).float(), mesh, [Replicate()])
        second.param_groups[0]["lr"], second.found_inf = 0.1, torch.tensor(0.0)
        second.step()
    assert isinstance(sharded, DTensor)
    assert torch.equal(whole, sharded.full_tensor())


@pytest.mark.parametrize(("kind", "config", "times"), [(SGD, SGDConfig(), 0), (Lion, LionConfig(), 2)])
def test_momentum_update_allocates_two_chunks_and_chunks_change_no_bit(
    kind, config, times, allocated_bytes, monkeypatch
):
    found, peaks = [], []
    for limit in (1 << 20, 4 * 35):
        monkeypatch.setattr(chunks, "MAX_NUMBERS", limit)
        parameters = [nn.Parameter(gradient(seed).float()) for seed in range(40)]
        optimizer = kind([{"params": parameters, "weight_decay": 0.1}], config)
        optimizer.found_inf = torch.tensor(0.0)
        for seed, parameter in enumerate(parameters):
            parameter.grad = gradient(100 + seed).float()
        with allocated_bytes() as allocated:
            optimizer.step()
        peaks.append(allocated.peak)
        found.append([*parameters, *(state[kind.state_names[0]] for state in optimizer.state.values())])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
    assert peaks[1] <= times * 4 * 35 * 4 + 64
    assert peaks[0] <= times * 40 * 35 * 4 + 64
