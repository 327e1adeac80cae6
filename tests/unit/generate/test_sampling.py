import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from candlewick.config import SampleConfig
from candlewick.generate.sampling import candidates, distribution, sample, sample_token

PLAIN = {"temperature": 1.0, "top_k": None}


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def reference(logits: torch.Tensor, config: SampleConfig, ids: torch.Tensor) -> torch.Tensor:
    """What transformers draws from: its processors, in its order."""
    from transformers.generation import logits_process as hf

    steps: list[Any] = [hf.RepetitionPenaltyLogitsProcessor(config.repetition_penalty)]
    steps += [hf.TemperatureLogitsWarper(config.temperature)]
    steps += [hf.TopKLogitsWarper(config.top_k)] if config.top_k else []
    steps += [hf.TopPLogitsWarper(config.top_p)] if config.top_p else []
    steps += [hf.MinPLogitsWarper(config.min_p)] if config.min_p else []
    for step in steps:
        logits = step(ids, logits)
    return logits.softmax(dim=-1)


SETTINGS = {
    "temperature": [{"temperature": t} for t in (0.3, 1.0, 2.5)],
    "top_k": [{"top_k": k} for k in (1, 3, 100)],
    "top_p": [{"top_p": p} for p in (1e-6, 0.4, 0.95, 1.0)],
    "min_p": [{"min_p": p} for p in (0.01, 0.3, 1.0)],
    "repetition_penalty": [{"repetition_penalty": x} for x in (0.7, 1.3, 4.0)]
    + [{"repetition_penalty": 1.2, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.1}],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_distribution_equals_the_logits_processors_of_transformers(name, core_row):
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(200, 40, generator=generator, dtype=torch.float64)
    ids = torch.randint(0, 40, (200, 12), generator=generator)
    seen = torch.zeros(200, 40, dtype=torch.bool).scatter_(1, ids, True)
    error = 0.0
    for values in SETTINGS[name]:
        config = SampleConfig(**{**PLAIN, **values})
        own = distribution(logits, config, seen)
        error = max(error, (own - reference(logits, config, ids)).abs().max().item())
    core_row(f"runtime.sample.{name}", "transformers processors, float64, absolute in probability", error, 1e-12)


def test_sample_token_draws_columns_by_their_weights():
    weights = torch.tensor([0.1, 0.0, 0.5, 0.15, 0.0, 0.25])
    draws = 4000
    counts = torch.bincount(sample_token(weights.expand(draws, -1), generators(*range(draws))), minlength=6)
    kept = weights > 0
    assert not counts[~kept].any()
    expected = draws * weights[kept]
    chi_square = ((counts[kept] - expected) ** 2 / expected).sum()
    assert chi_square < 16.3  # 3 degrees of freedom: 1 in 1,000


def test_sample_of_a_row_does_not_depend_on_other_rows():
    logits = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    config = SampleConfig(min_p=0.01)
    together = sample(logits, config, generators(5, 6, 7))
    assert [sample(logits[i : i + 1], config, generators(5 + i)).item() for i in range(3)] == together.tolist()


def test_temperature_zero_takes_the_likeliest_without_random_numbers():
    (generator,) = generators(0)
    before = generator.get_state()
    logits = torch.tensor([[1.0, 0.0, 2.0, -1.0]])
    assert sample(logits, SampleConfig(temperature=0.0), [generator]).tolist() == [2]
    assert torch.equal(generator.get_state(), before)
    assert distribution(logits, SampleConfig(temperature=0.0)).tolist() == [[0, 0, 1, 0]]


def test_temperature_zero_takes_the_likeliest_after_the_penalty():
    config = SampleConfig(temperature=0.0, repetition_penalty=3.0)
    seen = torch.tensor([[False, False, True, False]])
    assert sample(torch.tensor([[1.0, 0.0, 2.0, -1.0]]), config, [], seen).tolist() == [0]
    assert sample(torch.tensor([[-3.0, -4.0, -2.0, -5.0]]), config, [], seen).tolist() == [0]


def test_tiny_temperature_samples_the_likeliest_token():
    logits = 1e30 * torch.tensor([[1.0, 0.0, 2.0]])
    assert sample(logits, SampleConfig(temperature=1e-30), generators(0)).tolist() == [2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_sampled_in_float32(dtype):
    logits = torch.randn(1, 30, generator=torch.Generator().manual_seed(2)).to(dtype)
    ids, probabilities = candidates(logits, SampleConfig(**PLAIN))
    assert ids.tolist() == [list(range(30))]
    assert torch.equal(probabilities, logits.float().softmax(dim=-1))


@given(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0), st.one_of(st.none(), st.integers(1, 50)), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_top_k_top_p_and_min_p_keep_the_smallest_defined_set(top_p, min_p, top_k, seed):
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    config = SampleConfig(temperature=1.0, top_k=top_k, top_p=top_p, min_p=min_p)
    kept = distribution(logits, config)[0]
    order = logits[0].sort(descending=True).indices.tolist()[:top_k]
    odds = [math.exp(logits[0, token]) for token in order]
    allowed, reached = [], 0.0
    for token, own in zip(order, odds, strict=True):
        if reached < top_p and own >= min_p * odds[0]:
            allowed.append(token)
        reached += own / sum(odds)
    assert sorted(allowed) == kept.nonzero()[:, 0].tolist()
    assert kept.sum().item() == pytest.approx(1)


def test_top_p_sums_on_the_cpu(monkeypatch):
    # CUDA has no deterministic one: torch.use_deterministic_algorithms(True) refuses it
    moved = []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: moved.append(tensor.shape) or tensor)
    candidates(torch.zeros(1, 5), SampleConfig(top_p=0.5))
    assert moved == [(1, 5)]
