"""How much longer the steps of a file can make a text: a normalizer before it is encoded, a decoder after.

    Replace "a" -> "aa", thirty times       a text of 1 kB becomes one of 1 TB

A weight of a character is the number of characters that it becomes in the end, at most. Weights go from the last
step to the first: a pattern that is replaced weighs what its replacement weighs.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast, get_args

MAX_GROWTH = 8  # a MiB of text may then take 1.1 GB while it is encoded
_Form = Literal["NFC", "NFD", "NFKC", "NFKD"]


def max_growth(steps: Sequence[Mapping[str, Any]]) -> float:
    """Return the characters that one character of a text becomes at most. No pattern is empty.

    What Unicode's normal forms add to the text itself is not counted: 17 characters for one, at most, and rarely.
    """
    weights = dict.fromkeys("".join(text for step in steps for text in _strings(step)), 1.0)
    other = 1.0  # the weight of each other character
    for step in reversed(steps):
        kind = step["type"]
        if kind == "Replace":
            pattern, content = _strings(step)
            weight = sum(weights[char] for char in content) / len(pattern)
            weights |= {char: max(weights[char], weight) for char in pattern}
        elif kind == "Prepend":  # before each stretch between added tokens, which may be one character
            weight = sum(weights[char] for char in step["prepend"])
            weights, other = {char: old + weight for char, old in weights.items()}, other + weight
        elif kind in get_args(_Form) or kind == "Lowercase":
            largest = max(other, *weights.values(), 1.0)
            # a form that composes may make the heaviest character of any two
            known = {} if kind in ("NFC", "NFKC") else weights
            weights = {c: sum(known.get(part, largest) for part in _normalize(kind, c)) for c in weights}
            other = largest
    return max(other, *weights.values(), 1.0)


def _strings(step: Mapping[str, Any]) -> list[str]:
    if step["type"] == "Replace":
        return [step["pattern"]["String"], step["content"]]
    return [step["prepend"]] if step["type"] == "Prepend" else []


def _normalize(kind: str, char: str) -> str:
    return char.lower() if kind == "Lowercase" else unicodedata.normalize(cast(_Form, kind), char)
