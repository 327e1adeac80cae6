"""Find every way in which the grammar writes a text, and so the exact probability of the text.

A hypothesis is a place in the text, the items that are still to be written there, the facts that were chosen, and
the bits that its choices read. Each is followed to its end: there is one derivation if no other one fits.
"""

from collections.abc import Iterator, Mapping
from math import log2
from typing import NamedTuple, Union

from candlewick.data.text.stories.grammar import Item, Rule, Word, code_length, load_grammar

_Rest = Union[tuple[Item, "_Rest"], None]  # noqa: UP007 - the next item, and those after it


class _Hypothesis(NamedTuple):
    position: int
    rest: _Rest
    facts: Mapping[str, int]
    bits: int


def story_bits(text: str) -> float | None:
    """Return -log2 of the probability that a story is `text`; None if no story is."""
    found = list(derivations(text, load_grammar().story))
    return -log2(sum(2.0**-bits for bits in found)) if found else None


def derivations(text: str, rule: Rule, facts: Mapping[str, int] | None = None) -> Iterator[int]:
    """Yield the bits of each derivation of `text` from `rule`, where `facts` hold."""
    hypotheses = [_Hypothesis(0, (rule, None), facts or {}, 0)]
    while hypotheses:
        position, rest, known, bits = hypotheses.pop()
        while rest is not None:
            item, rest = rest
            if isinstance(item, Rule):
                hypotheses += _choose_way(text, item, _Hypothesis(position, rest, known, bits))
                break
            if isinstance(item, Word):
                choice = known.get(item.fact) if item.fact is not None else None
                if choice is None:
                    hypotheses += _choose_word(text, item, _Hypothesis(position, rest, known, bits))
                    break
                item = item.texts[choice]
            if not text.startswith(item, position):
                break
            position += len(item)
        else:
            if position == len(text):
                yield bits


def _choose_way(text: str, rule: Rule, before: _Hypothesis) -> Iterator[_Hypothesis]:
    position, rest, facts, bits = before
    for choice, way in enumerate(rule.ways):
        if isinstance(first := way[0], str) and not text.startswith(first, position):
            continue
        later = rest
        for item in reversed(way):
            later = item, later
        yield _Hypothesis(position, later, facts, bits + code_length(len(rule.ways), choice))


def _choose_word(text: str, word: Word, before: _Hypothesis) -> Iterator[_Hypothesis]:
    position, rest, facts, bits = before
    for choice in word.by_key.get(text[position : position + word.key_length], ()):
        if text.startswith(said := word.texts[choice], position):
            known = facts if word.fact is None else {**facts, word.fact: choice}
            yield _Hypothesis(position + len(said), rest, known, bits + code_length(len(word.texts), choice))
