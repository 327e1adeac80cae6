import itertools
import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from candlewick.config import SampleConfig
from candlewick.generate.engine import Engine
from candlewick.generate.sampling import distribution
from candlewick.generate.speculative import SpeculativeEngine
from candlewick.model.cache import ContiguousCache

GREEDY = SampleConfig(temperature=0.0, max_new_tokens=20)
NUM_TOKENS = 4


def ids_of(engine, prompt, config, seed=0):
    return [step.ids[0] for step in engine.steps([prompt], config, [seed])]


@pytest.mark.parametrize(("draft_tokens", "penalty"), [(1, 1.0), (4, 1.3), (9, 1.0)])
def test_speculative_greedy_text_equals_plain_decoding(models, draft_tokens, penalty, core_row):
    config = GREEDY.replaced(repetition_penalty=penalty)
    different = 0
    for seed in (0, 1):
        model, draft = models(seed), models(seed + 1)
        for prompt in ([3], [1, 2, 3, 4, 5]):
            plain = ids_of(Engine(model, 20), prompt, config)
            fast = ids_of(SpeculativeEngine(model, draft, 20, draft_tokens, None), prompt, config)
            assert len(plain) == len(fast) == 20
            different += sum(a != b for a, b in zip(plain, fast, strict=True))
    core_row("generate.speculative, temperature 0", "plain decoding; number of tokens that differ", different, 0)


@pytest.mark.parametrize("page_size", [1, 3, 64])
def test_speculative_decoding_with_paged_caches_writes_the_same_tokens(models, page_size):
    config = SampleConfig(temperature=1.0, top_k=None, max_new_tokens=20)
    for seed in range(4):
        texts, rates = [], []
        for size in (None, page_size):
            engine = SpeculativeEngine(models(0), models(1, scale=0.45), 20, 4, size)
            texts.append(ids_of(engine, [1, 2, 3], config, seed))
            rates.append(engine.acceptance_rate)
        assert texts[0] == texts[1]
        assert 0 <= rates[0] == rates[1] < 1  # some are refused, so both caches are rewound


class Bigram(nn.Module):
    """Logits that depend on the last token only, in float64: fast enough for thousands of texts."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(max_position_embeddings=24)
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(NUM_TOKENS, NUM_TOKENS, generator=generator, dtype=torch.float64)
        self.lm_head = nn.Linear(NUM_TOKENS, NUM_TOKENS, bias=False, dtype=torch.float64)
        nn.init.eye_(self.lm_head.weight)

    def new_cache(self, batch_size, max_tokens, page_size):
        return ContiguousCache((1, batch_size, 1, max_tokens, 1), torch.float64, torch.device("cpu"))

    def hidden(self, tokens, *, cache):
        cache.length += tokens.shape[1]
        return self.table[tokens]


def exact(model: Bigram, prompt: list[int], config: SampleConfig) -> dict[tuple[int, ...], float]:
    """The probability of every text of three tokens."""
    joint = {}
    for text in itertools.product(range(NUM_TOKENS), repeat=3):
        joint[text] = 1.0
        for place, token in enumerate(text):
            ids = [*prompt, *text[:place]]
            seen = torch.zeros(1, NUM_TOKENS, dtype=torch.bool)
            seen[0, ids] = True
            joint[text] *= distribution(model.table[ids[-1]][None], config, seen)[0, token].item()
    assert sum(joint.values()) == pytest.approx(1)
    return {text: chance for text, chance in joint.items() if chance}


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0, "top_k": None},
        {"temperature": 0.7, "top_k": 3, "top_p": 0.9},
        {"temperature": 1.5, "top_k": None, "min_p": 0.2, "repetition_penalty": 1.5},
    ],
)
def test_speculative_sampling_has_the_distribution_of_plain_decoding(settings, core_row):
    model: Any = Bigram(0)
    draft: Any = Bigram(1)
    prompt, draws = [1, 2], 400
    config = SampleConfig(**settings, max_new_tokens=3)
    engine = SpeculativeEngine(model, draft, NUM_TOKENS, 2, None)
    counts, rate = Counter(), 0.0
    for seed in range(draws):
        counts[tuple(ids_of(engine, prompt, config, seed))] += 1
        assert engine.acceptance_rate is not None
        rate += engine.acceptance_rate / draws
    assert 0.1 < rate < 0.95  # both ways out are taken
    joint = exact(model, prompt, config)
    assert counts.keys() <= joint.keys()
    # texts that are too rare for the statistic are one class
    rare = {text for text in joint if draws * joint[text] < 5}
    classes = [[text] for text in joint if text not in rare] + [list(rare)] * bool(rare)
    chi_square = sum(
        (sum(counts[text] for text in members) - expected) ** 2 / expected
        for members in classes
        if (expected := draws * sum(joint[text] for text in members))
    )
    freedom = len(classes) - 1
    deviation = abs(chi_square - freedom) / math.sqrt(2 * freedom)
    core_row("generate.speculative, sampled", "all texts of 3 tokens, chi-square in deviations", deviation, 3.5)


def test_draft_equal_to_the_model_is_always_accepted(model):
    engine = SpeculativeEngine(model, model, 20, 4, None)
    assert ids_of(engine, [1, 2], GREEDY) == ids_of(Engine(model, 20), [1, 2], GREEDY)
    assert engine.acceptance_rate == 1
    config = SampleConfig(temperature=1.0, top_k=None, max_new_tokens=20)
    ids_of(engine, [1, 2], config)
    assert engine.acceptance_rate > 0.95


def test_draft_with_a_short_context_is_used_within_it_and_warns(models, caplog):
    model, draft = models(0), models(0, longest=8)
    engine = SpeculativeEngine(model, draft, 20, 4, None)
    for prompt in ([1, 2], [1] * 9):
        assert ids_of(engine, prompt, GREEDY) == ids_of(Engine(model, 20), prompt, GREEDY)
    assert engine.acceptance_rate == 0
    assert "the draft reads 8 tokens" in caplog.text


@pytest.mark.parametrize("count", [1, 2, 3, 21, 40])
def test_speculative_engine_writes_max_new_tokens_or_fills_the_context(models, count):
    config = SampleConfig(temperature=1.0, max_new_tokens=count)
    engine = SpeculativeEngine(models(0), models(1), 20, 4, None)
    assert len(ids_of(engine, [1, 2, 3], config)) == min(count, 22)


def test_speculative_step_logits_equal_those_of_the_model(models):
    engine = SpeculativeEngine(models(0), models(1), 20, 3, None)
    steps = list(engine.steps([[1, 2]], SampleConfig(temperature=1.0, max_new_tokens=12), [4]))
    ids = torch.tensor([[1, 2, *(step.ids[0] for step in steps)]])
    with torch.no_grad():
        whole = engine.model(ids)[0, 1:-1, :20]
    assert torch.allclose(torch.cat([step.logits for step in steps]), whole, atol=1e-4)


def test_speculative_samples_depend_on_the_seed_and_restore_training_mode(models):
    config = SampleConfig(temperature=2.0, max_new_tokens=20)
    model, draft = models(0).train(), models(1)
    engine = SpeculativeEngine(model, draft, 20, 4, None)
    first, again, other = (ids_of(engine, [3], config, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert model.training
    assert not draft.training


def test_speculative_engine_refuses_several_rows(models):
    with pytest.raises(ValueError, match="one row at a time, not 2"):
        next(SpeculativeEngine(models(0), models(1), 20, 4, None).steps([[1], [2]], GREEDY, [0, 1]))
