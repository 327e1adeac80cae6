"""Turns that continue each other have the tokens of turns that are computed alone."""

import pytest

from candlewick.config import SampleConfig
from candlewick.generate.continuing import ContinuingEngine
from candlewick.generate.engine import Engine

GREEDY = SampleConfig(temperature=0.0, max_new_tokens=6)
TURNS = [
    [1, 2, 3],
    [1, 2, 3, 4, 5, 6, 7],
    [1, 2, 9],
    [1, 2, 9],
    [8],
    [8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8],
]


def turn(engine, prompt, config=GREEDY, seed=0):
    return [step.ids[0] for step in engine.steps([prompt], config, [seed])]


@pytest.mark.parametrize("page_size", [None, 4])
@pytest.mark.parametrize("config", [GREEDY, SampleConfig(temperature=2.0, top_k=None, max_new_tokens=6)])
def test_turns_have_the_tokens_of_prompts_that_are_read_alone(model, config, page_size):
    engine, plain = ContinuingEngine(model, 20, page_size), Engine(model, 20)
    for seed, prompt in enumerate(TURNS):
        assert turn(engine, prompt, config, seed) == turn(plain, prompt, config, seed)


def test_a_turn_computes_only_what_is_new(model, monkeypatch):
    engine, sizes = ContinuingEngine(model, 20), []
    hidden = model.hidden
    monkeypatch.setattr(model, "hidden", lambda t, **more: sizes.append(t.shape[1]) or hidden(t, **more))
    prompt = [1, 2, 3]
    prompt = [*prompt, *turn(engine, prompt)]
    assert sizes == [3, 1, 1, 1, 1, 1]
    sizes.clear()
    turn(engine, [*prompt, 5])
    assert sizes[0] == 2  # the last token that was sampled, and the new one
    sizes.clear()
    turn(engine, [*prompt, 5])
    assert sizes[0] == 1  # a prompt that was read: its last token again


def test_a_turn_that_begins_before_the_last_one_ended_changes_neither(model):
    engine, plain = ContinuingEngine(model, 20), Engine(model, 20)
    turn(engine, [1, 2, 3])
    first = engine.steps([[1, 2, 3, 4]], GREEDY, [0])
    found = [next(first).ids[0]]
    assert turn(engine, [1, 2, 3, 5]) == turn(plain, [1, 2, 3, 5])
    found += [step.ids[0] for step in first]
    assert found == turn(plain, [1, 2, 3, 4])
    assert turn(engine, [1, 2, 3, 4, 6]) == turn(plain, [1, 2, 3, 4, 6])


def test_a_turn_that_was_interrupted_leaves_a_cache_that_is_right(model, monkeypatch):
    engine = ContinuingEngine(model, 20)
    steps = engine.steps([[1, 2, 3]], GREEDY, [0])
    next(steps)

    def interrupt(*given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "hidden", interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(steps)
    monkeypatch.undo()
    assert turn(engine, [1, 2, 3, 4]) == turn(Engine(model, 20), [1, 2, 3, 4])
