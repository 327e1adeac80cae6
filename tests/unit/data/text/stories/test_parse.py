"""A story has exactly one derivation, whose bits are those that its choices read."""

import pytest

from candlewick.data.text.stories.generate import write_story
from candlewick.data.text.stories.grammar import Rule, Word, code_length, load_grammar
from candlewick.data.text.stories.parse import derivations, story_bits


def draw(rule: Rule, random, facts: dict[str, int]) -> tuple[str, int]:
    """Write a rule by plain choices, without codes; return the text and its bits."""
    choice = random.randrange(len(rule.ways))
    text, bits = "", code_length(len(rule.ways), choice)
    for item in rule.ways[choice]:
        if isinstance(item, Rule):
            part, more = draw(item, random, facts)
            text, bits = text + part, bits + more
        elif isinstance(item, Word):
            if item.fact is None or item.fact not in facts:
                chosen = random.randrange(len(item.texts))
                bits += code_length(len(item.texts), chosen)
                if item.fact is not None:
                    facts[item.fact] = chosen
            else:
                chosen = facts[item.fact]
            text += item.texts[chosen]
        else:
            text += item
    return text, bits


def test_each_story_has_exactly_one_derivation():
    """`make stories` parses 100,000."""
    for number in range(400):
        assert len(list(derivations(write_story(5, number), load_grammar().story))) == 1


def test_the_bits_of_a_story_are_those_of_its_choices():
    import random

    for seed in range(200):
        text, bits = draw(load_grammar().story, random.Random(seed), {})
        assert story_bits(text) == bits


@pytest.mark.parametrize("change", [("", " "), (".", ""), ("a", "b"), ("the", "teh")])
def test_other_text_is_no_story(change):
    old, new = change
    for number in range(20):
        story = write_story(5, number)
        assert story_bits(story[::-1].replace(old[::-1], new[::-1], 1)[::-1]) is None
    assert story_bits("") is story_bits("def main():\n    pass\n") is None


def test_a_contradiction_is_no_story():
    for number in range(50):
        story = write_story(5, number)
        assert story_bits(story.replace("he ", "they ")) is None
        if " boy " in story:
            assert story_bits(story.replace(" boy ", " girl ")) is None


def test_a_sentence_is_parsed_from_the_facts_that_hold():
    rule = Rule("", [("The ", next(iter_slots("animal")), " ran.")])
    animals = next(iter_slots("animal")).texts
    assert list(derivations("The owl ran.", rule)) == [5]
    assert list(derivations("The owl ran.", rule, {"animal": animals.index("owl")})) == [0]
    assert list(derivations("The owl ran.", rule, {"animal": animals.index("bat")})) == []


def iter_slots(fact: str):
    ways = [way for rule in load_grammar().rules.values() for way in rule.ways]
    return (item for way in ways for item in way if isinstance(item, Word) and item.texts[0] == "badger")
