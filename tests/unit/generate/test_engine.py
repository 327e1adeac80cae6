import pytest
import torch

from candlewick.config import SampleConfig
from candlewick.errors import ConfigError
from candlewick.generate.engine import Engine, TextGeneration, sample_text

GREEDY = SampleConfig(temperature=0.0, max_new_tokens=40)
HOT = SampleConfig(temperature=2.0, top_k=None, max_new_tokens=20)


def ids_of(model, prompt, config, seed=0, num_tokens=20):
    return [step.ids[0] for step in Engine(model, num_tokens).steps([prompt], config, [seed])]


def without_cache(model, prompt, count, num_tokens):
    """Greedy decoding that reads everything again for each token."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]))[0, -1, :num_tokens].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("prompt", [[3], [1, 2, 3, 4, 5]])
def test_engine_with_a_cache_writes_the_tokens_of_one_without(model, prompt):
    config = SampleConfig(temperature=0.0, max_new_tokens=15)
    assert ids_of(model, prompt, config) == without_cache(model, prompt, 15, 20)


def test_engine_writes_each_row_of_a_batch_as_a_single_row(model, core_row):
    prompts, seeds = [[1, 2, 3], [4, 5, 6], [1, 2, 3], [7, 8, 9]], [3, 3, 4, 5]
    config = SampleConfig(temperature=1.5, top_k=None, repetition_penalty=1.2, max_new_tokens=15)
    steps = list(Engine(model, 20).steps(prompts, config, seeds))
    together = list(zip(*(step.ids for step in steps), strict=True))
    alone = [tuple(ids_of(model, prompt, config, seed)) for prompt, seed in zip(prompts, seeds, strict=True)]
    assert together[0] != together[2]
    different = sum(
        a != b for one, other in zip(together, alone, strict=True) for a, b in zip(one, other, strict=True)
    )
    core_row("generate.cache=batched", "one row at a time; number of tokens that differ", different, 0)


@pytest.mark.parametrize("page_size", [1, 4, 100])
def test_engine_with_a_paged_cache_writes_the_same_tokens(models, page_size):
    config = SampleConfig(temperature=1.5, top_k=None, max_new_tokens=15)
    for seed in (0, 1):
        model = models(seed)
        whole, paged = (
            [step.ids for step in Engine(model, 20, size).steps([[1, 2, 3], [4, 5, 6]], config, [3, 4])]
            for size in (None, page_size)
        )
        assert whole == paged


def test_paged_cache_allocates_only_the_pages_of_a_short_text(model, monkeypatch):
    caches, make = [], model.new_cache
    monkeypatch.setattr(model, "new_cache", lambda *given: caches.append(make(*given)) or caches[-1])
    for page_size in (None, 4):
        steps = Engine(model, 20, page_size).steps([[1, 2, 3]], GREEDY, [0])
        for _ in range(5):
            next(steps)
        steps.close()
    contiguous, paged = caches
    assert contiguous.length == paged.length == 7
    assert contiguous.keys.shape[3] == 24
    assert [len(pool) for pool in paged._keys] == [2] * 2  # pages of 4 tokens, not the longest text


def test_step_logits_equal_those_of_one_pass_over_the_text(model, core_row):
    (step, *rest) = Engine(model, 20).steps([[1, 2, 3]], HOT, [0])
    ids = [1, 2, 3, *(s.ids[0] for s in (step, *rest))]
    with torch.no_grad():
        whole = model(torch.tensor([ids]))[0, 2:-1, :20]
    stepwise = torch.cat([s.logits for s in (step, *rest)])
    error = ((whole - stepwise).abs().max() / whole.abs().max()).item()
    core_row("generate.cache=single", "the whole text in one pass, float32", error, 1e-5)


def test_engine_never_samples_ids_beyond_num_tokens(model):
    with torch.no_grad():
        model.lm_head.weight[5:] *= 100
    assert max(ids_of(model, [1], HOT, num_tokens=5)) < 5


def test_repetition_penalty_covers_prompt_and_generated_tokens(model):
    never = SampleConfig(temperature=0.0, repetition_penalty=1e9, max_new_tokens=16)
    with torch.no_grad():
        model.lm_head.weight.abs_()
        model.model.norm.weight.abs_()
    ids = [1, 2, 3, *ids_of(model, [1, 2, 3], never)]
    assert len(set(ids)) > len(set(ids_of(model, [1, 2, 3], GREEDY)))


def test_engine_ends_at_the_longest_context_of_the_model(model):
    assert len(ids_of(model, [1, 2, 3], GREEDY)) == 22  # positions 0 to 23 are read
    assert len(ids_of(model, [1] * 24, GREEDY)) == 1


def test_engine_samples_depend_on_the_random_seed(model):
    first, again, other = (ids_of(model, [3], HOT, seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("training", [True, False])
def test_engine_restores_the_training_mode(model, training):
    model.train(training)
    steps = Engine(model, 20).steps([[3]], GREEDY, [0])
    next(steps)
    assert not model.training
    steps.close()
    assert all(module.training == training for module in model.modules())


def test_engine_leaves_gradients_enabled_between_steps(model):
    next(Engine(model, 20).steps([[3]], GREEDY, [0]))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("prompt", "fix"), [([], "start with the document delimiter"), ([1] * 25, "shorten the prompt")]
)
def test_engine_refuses_an_empty_or_too_long_prompt(model, prompt, fix):
    with pytest.raises(ConfigError, match=f"the prompt has {len(prompt)} tokens, this model reads 1 to 24.*{fix}"):
        Engine(model, 20).steps([prompt], GREEDY, [0])


def text_of(model, letters, config, prompt=(0, 1, 2)):
    return list(TextGeneration(Engine(model, 20), letters, prompt, config, seed=0))


def test_text_ends_before_the_delimiter(model, letters):
    tokens = ids_of(model, [0, 1, 2], GREEDY)
    expected = letters.decode(tokens[: tokens.index(0)] if 0 in tokens else tokens)
    assert text_of(model, letters, GREEDY) == list(expected)
    assert sample_text(model, letters, "ab", GREEDY, seed=0) == expected


@pytest.mark.parametrize("place", [0, 1, 3])
def test_text_ends_before_any_chat_token(model, letters, place):
    text = "".join(text_of(model, letters, GREEDY))
    letters.chat_ids = (19, letters.encode(text)[place])
    assert "".join(text_of(model, letters, GREEDY)) == text[: text.index(text[place])]


def test_text_ends_before_a_stop_text(model, letters):
    text = "".join(text_of(model, letters, GREEDY))
    stops = GREEDY.replaced(stop=("?", text[3:5]))
    assert "".join(text_of(model, letters, stops)) == text[: text.index(text[3:5])]
    assert sample_text(model, letters, "ab", stops, seed=0) == text[: text.index(text[3:5])]


def test_generation_says_why_it_stopped_and_how_many_tokens_it_took(model, letters):
    def end_of(config, prompt=(0, 1, 2)):
        generation = TextGeneration(Engine(model, 20), letters, prompt, config, seed=0)
        text = "".join(generation)
        return generation.stop, generation.num_tokens - len(text)

    text = "".join(text_of(model, letters, GREEDY))
    assert end_of(GREEDY.replaced(max_new_tokens=3)) == ("length", 0)
    assert end_of(GREEDY.replaced(stop=(text[1],)))[0] == "text"
    letters.stop_ids = ()
    assert end_of(GREEDY)[0] == "context"
    letters.stop_ids = tuple(letters.encode(text[0]))
    assert end_of(GREEDY) == ("end", 1)
    generation = TextGeneration(Engine(model, 20), letters, (0, 1), GREEDY, seed=0)
    generation.close()
    assert (list(generation), generation.stop) == ([], None)


def test_text_held_for_a_stop_text_is_emitted_at_the_end(model, letters):
    text = "".join(text_of(model, letters, GREEDY))
    held = GREEDY.replaced(stop=(text[-1] + "?",))
    assert "".join(text_of(model, letters, held)) == text
