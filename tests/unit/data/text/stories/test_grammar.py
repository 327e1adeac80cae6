"""The grammar is frozen: figures that were published about it hold for its exact text."""

import re
from collections import Counter
from fractions import Fraction

import pytest
from tests.stories import total_bits

from candlewick.data.text.stories.generate import RANDOM_BYTES, write_story
from candlewick.data.text.stories.grammar import Item, Rule, Word, code_length, load_grammar

WORD = re.compile(r"[A-Za-z]+(?:[-'][A-Za-z]+)*")
RULES = load_grammar().rules
PARTS = {"Story", "ShortPlot", "LongPlot"}  # rules of rules
SLOTS = [item for rule in RULES.values() for way in rule.ways for item in way if isinstance(item, Word)]


def test_the_grammar_is_frozen_with_its_floor():
    stories = [write_story(0, number) for number in range(1000)]
    bits, size = total_bits(stories), sum(len(story.encode()) for story in stories)
    assert load_grammar().sha256 == "d5d0231cf6f12048248196db0391b2d6cd94e6851796bdff81afa3d34b34b7a9"
    assert (bits, size) == (214_061, 477_627)
    assert 0.4 < bits / size < 0.9


def test_the_grammar_has_enough_patterns_and_words():
    patterns = [way for name, rule in RULES.items() if name not in PARTS for way in rule.ways]
    assert len(set(map(repr, patterns))) == 411
    words = {word.lower() for way in patterns for item in way for word in WORD.findall(_texts(item))}
    assert len(words) == 2101


def _texts(item: Item) -> str:
    assert not isinstance(item, Rule)
    return item if isinstance(item, str) else "\n".join(item.texts)


@pytest.mark.parametrize("count", range(1, 70))
def test_the_probabilities_of_a_choice_sum_to_one(count):
    shares = [Fraction(1, 2 ** code_length(count, choice)) for choice in range(count)]
    assert sum(shares) == 1
    assert max(shares) <= 2 * min(shares)


def test_no_list_says_a_word_twice():
    for slot in SLOTS:
        if slot.fact is None:
            assert not [text for text, times in Counter(slot.texts).items() if times > 1]


def test_articles_fit_the_words_behind_them():
    for slot in SLOTS:
        for text in slot.texts:
            if article := re.match(r"(an?) (\w)", text, re.IGNORECASE):
                assert (len(article[1]) == 2) == (article[2] in "aeiou"), text
            assert not re.match(r"an? (hour|honest|heir|uni|use|usu|one|eu)", text, re.IGNORECASE), text


def bounds(rule: Rule) -> tuple[int, int]:
    """Return bounds of the bits that a derivation of a rule reads: at least, facts being known, and at most."""
    sums = []
    for choice, way in enumerate(rule.ways):
        low = high = code_length(len(rule.ways), choice)
        for item in way:
            if isinstance(item, Rule):
                below = bounds(item)
                low, high = low + below[0], high + below[1]
            elif isinstance(item, Word):
                codes = [code_length(len(item.texts), other) for other in range(len(item.texts))]
                low, high = low + min(codes) * (item.fact is None), high + max(codes)
        sums.append((low, high))
    return min(low for low, _ in sums), max(high for _, high in sums)


def test_no_story_is_likely_and_none_reads_more_bits_than_there_are():
    least, most = bounds(load_grammar().story)
    assert least >= 134  # so the sum of p^2 over all stories, at most the largest p, is at most 2^-131
    assert most <= 8 * RANDOM_BYTES
