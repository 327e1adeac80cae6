import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

from candlewick.optim import chunks
from candlewick.optim.average import ExponentialMovingAverage


def weights(seed):
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def walk(parameter, average, seeds, found_inf=None):
    for seed in seeds:
        with torch.no_grad():
            parameter.copy_(weights(seed))
        average.update(found_inf)


def test_average_is_the_exponential_average_of_the_weights(core_row):
    parameter = nn.Parameter(weights(0).float())
    average, expected = ExponentialMovingAverage({"w": parameter}, 0.9), weights(0)
    walk(parameter, average, range(1, 30), torch.tensor(0.0))
    for seed in range(1, 30):
        expected = 0.9 * expected + 0.1 * weights(seed)
    error = (average.averages["w"] - expected).abs().max() / expected.abs().max()
    core_row("optimizer.ema_decay", "the exponential average, float64", error.item(), 1e-6)


def test_average_with_found_inf_zero_changes_no_bit_and_with_one_skips():
    parameter = nn.Parameter(weights(0))
    first, second = (ExponentialMovingAverage({"w": parameter}, 0.99) for _ in range(2))
    walk(parameter, first, [1, 2], torch.tensor(0.0))
    walk(parameter, second, [1, 2])
    assert torch.equal(first.averages["w"], second.averages["w"])
    walk(parameter, first, [3], torch.tensor(1.0))
    assert torch.equal(first.averages["w"], second.averages["w"])


def test_average_update_allocates_one_chunk_and_chunks_change_no_bit(allocated_bytes, monkeypatch):
    parameters = {str(seed): nn.Parameter(weights(seed).float()) for seed in range(40)}
    average, expected = ExponentialMovingAverage(parameters, 0.9), ExponentialMovingAverage(parameters, 0.9)
    with torch.no_grad():
        for seed, parameter in enumerate(parameters.values()):
            parameter.copy_(weights(seed + 1))
    expected.update(torch.tensor(0.0))
    monkeypatch.setattr(chunks, "MAX_NUMBERS", 4 * 15)
    with allocated_bytes() as allocated:
        average.update(torch.tensor(0.0))
    assert 4 * 15 * 4 <= allocated.peak < 5 * 15 * 4
    assert all(torch.equal(tensor, expected.averages[name]) for name, tensor in average.averages.items())


def test_averages_and_last_weights_are_swapped_and_restored():
    parameter = nn.Parameter(weights(0))
    average = ExponentialMovingAverage({"w": parameter}, 0.5)
    walk(parameter, average, [1])
    mean = (weights(0) + weights(1)) / 2
    for held, last_is_held in ((mean, False), (weights(1), True)):
        average.swap()
        assert torch.allclose(parameter, held)
        assert torch.allclose(average.averages["w"], mean)
        assert torch.equal(average.last["w"], weights(1))
        assert (average.last["w"] is parameter) == last_is_held


def test_average_of_a_sharded_parameter_has_the_same_sharding(mesh):
    parameter = nn.Parameter(distribute_tensor(weights(0), mesh, [Replicate()]))
    average = ExponentialMovingAverage({"w": parameter}, 0.5)
    with torch.no_grad():
        parameter.copy_(distribute_tensor(weights(1), mesh, [Replicate()]))
    average.update(torch.tensor(0.0))
    average.swap()
    last = average.last["w"]
    assert isinstance(parameter, DTensor)
    assert isinstance(last, DTensor)
    assert torch.allclose(parameter.full_tensor(), (weights(0) + weights(1)) / 2)
    assert torch.equal(last.full_tensor(), weights(1))
