"""Find every way in which the grammar writes a text, and so the exact probability of the text.

A hypothesis is a place in the text, the items that are still to be written there, the facts that were chosen, and
the bits that its choices read. Each is followed to its end: there is one derivation if no other one fits.
"""

from collections.abc import Iterator, Mapping
from math import log2
from typing import Union

from candlewick.data.stories.grammar import Item, Rule, code_length, load_grammar

_Rest = Union[tuple[Item, "_Rest"], None]  # noqa: UP007 - the next item, and those after it


def story_bits(text: str) -> float | None:
    """Return -log2 of the probability that a story is `text`; None if no story is."""
    found = list(derivations(text, load_grammar().story))
    return -log2(sum(2.0**-bits for bits in found)) if found else None


def derivations(text: str, rule: Rule, facts: Mapping[str, int] | None = None) -> Iterator[int]:
    """Yield the bits of each derivation of `text` from `rule`, where `facts` hold."""
    hypotheses: list[tuple[int, _Rest, Mapping[str, int], int]] = [(0, (rule, None), facts or {}, 0)]
    while hypotheses:
        position, rest, known, bits = hypotheses.pop()
        while rest is not None:
            item, rest = rest
            if isinstance(item, str):
                if not text.startswith(item, position):
                    break
                position += len(item)
            elif isinstance(item, Rule):
                count = len(item.ways)
                for choice, way in enumerate(item.ways):
                    if isinstance(first := way[0], str) and not text.startswith(first, position):
                        continue
                    later = rest
                    for part in reversed(way):
                        later = part, later
                    hypotheses.append((position, later, known, bits + code_length(count, choice)))
                break
            elif item.fact is not None and item.fact in known:
                if not text.startswith(said := item.texts[known[item.fact]], position):
                    break
                position += len(said)
            else:
                for choice in item.by_key.get(text[position : position + item.key_length], ()):
                    if text.startswith(said := item.texts[choice], position):
                        chosen = known if item.fact is None else {**known, item.fact: choice}
                        cost = bits + code_length(len(item.texts), choice)
                        hypotheses.append((position + len(said), rest, chosen, cost))
                break
        else:
            if position == len(text):
                yield bits
