import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from candlewick.config import SampleConfig
from candlewick.generate.sampling import sample

LOGITS = torch.tensor([1.0, 0.0, 2.0, -1.0, 0.5, 9.0, 9.0])  # the last two are padding
NUM_TOKENS, DRAWS = 5, 20_000


def frequencies(config: SampleConfig) -> list[int]:
    generator = torch.Generator().manual_seed(3)
    drawn = sample(LOGITS.expand(DRAWS, -1), NUM_TOKENS, config, generator)
    return torch.bincount(drawn, minlength=len(LOGITS)).tolist()


def exact(config: SampleConfig) -> list[float]:
    """The definition, token by token, in plain Python."""
    odds = {token: math.exp(LOGITS[token].item() / config.temperature) for token in range(NUM_TOKENS)}
    order = sorted(odds, key=lambda token: -odds[token])[: config.top_k]
    whole, kept, reached = sum(odds[token] for token in order), [], 0.0
    for token in order:
        if config.top_p is not None and reached >= config.top_p:
            break
        kept.append(token)
        reached += odds[token] / whole
    total = sum(odds[token] for token in kept)
    return [odds[token] / total if token in kept else 0.0 for token in range(len(LOGITS))]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    ("top_k", "top_p"), [(None, None), (3, None), (None, 0.8), (4, 0.7), (50, None), (1, None), (None, 1e-9)]
)
def test_frequencies_are_those_of_the_exact_distribution(temperature, top_k, top_p):
    config = SampleConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    counts, probabilities = frequencies(config), exact(config)
    assert all(count == 0 for count, p in zip(counts, probabilities, strict=True) if p == 0)
    chi_square = sum(
        (count - DRAWS * p) ** 2 / (DRAWS * p) for count, p in zip(counts, probabilities, strict=True) if p
    )
    assert chi_square < 18.5  # 4 degrees of freedom: 1 in 1,000


def test_temperature_zero_takes_the_likeliest_and_draws_nothing():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert sample(LOGITS[None], NUM_TOKENS, SampleConfig(temperature=0.0), generator).tolist() == [2]
    assert torch.equal(generator.get_state(), before)


def test_a_tiny_temperature_is_nearly_the_likeliest():
    generator = torch.Generator().manual_seed(0)
    logits = 1e30 * LOGITS[None]
    assert sample(logits, NUM_TOKENS, SampleConfig(temperature=1e-30), generator).tolist() == [2]


@given(
    st.integers(1, 9),
    st.one_of(st.none(), st.integers(1, 12)),
    st.one_of(st.none(), st.floats(1e-6, 1.0)),
    st.floats(0.0, 5.0),
)
@settings(max_examples=60, deadline=None)
def test_padding_is_never_drawn(num_tokens, top_k, top_p, temperature):
    generator = torch.Generator().manual_seed(num_tokens)
    logits = torch.randn(50, 9, generator=generator)
    logits[:, num_tokens:] += 100
    config = SampleConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    drawn = sample(logits, num_tokens, config, generator)
    assert drawn.shape == (50,)
    assert 0 <= drawn.min() <= drawn.max() < num_tokens


def test_the_same_seed_draws_the_same():
    config = SampleConfig()
    first, second = (
        sample(torch.randn(8, 64, generator=g), 64, config, g)
        for g in (torch.Generator().manual_seed(5), torch.Generator().manual_seed(5))
    )
    assert torch.equal(first, second)


@given(st.floats(1e-6, 1.0), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_top_p_keeps_the_least_set_that_reaches_it(top_p, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 40, generator=generator)
    probabilities, ids = logits.softmax(dim=-1)[0].sort(descending=True)
    before = probabilities.cumsum(dim=0) - probabilities
    allowed = set(ids[before < top_p + 1e-6].tolist())
    drawn = sample(logits.expand(500, -1), 40, SampleConfig(temperature=1.0, top_k=None, top_p=top_p), generator)
    assert set(drawn.tolist()) <= allowed


def test_the_sum_for_top_p_is_made_on_the_cpu(monkeypatch):
    # CUDA has no deterministic one: torch.use_deterministic_algorithms(True) refuses it
    moved = []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: moved.append(tensor.shape) or tensor)
    sample(LOGITS[None], NUM_TOKENS, SampleConfig(top_p=0.5), torch.Generator())
    assert moved == [(1, NUM_TOKENS)]
