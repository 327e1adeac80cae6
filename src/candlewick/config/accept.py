"""Values that people write in another form than the settings have are put into that form.

train_shards: notes.txt        one text for a list of texts
total_steps: 1e4               a whole number written as another one
weight: 0.7 and 0.3            shares of a mixture: 7 and 3
"""

import math
from fractions import Fraction
from typing import Any, cast

from candlewick.config.keys import Name, key_types, name_of
from candlewick.config.tree import Tree

_MAX_DENOMINATOR = 1_000_000


def accept(tree: Tree) -> Tree:
    """Return the tree with values in the form that its settings have, where that is clear."""
    accepted = cast(Tree, _accept(tree, ()))
    data = accepted.get("data")
    if isinstance(data, dict) and isinstance(mixture := cast(Tree, data).get("mixture"), list):
        accepted["data"] = {**cast(Tree, data), "mixture": _whole_weights(cast("list[object]", mixture))}
    return accepted


def _accept(value: object, name: Name) -> object:
    types = key_types().get(name, frozenset())
    match value:
        case dict():
            section = cast(Tree, value)
            return {key: _accept(entry, name_of((*name, key))) for key, entry in section.items()}
        case list():
            return [
                _accept(entry, name) if isinstance(entry, dict) else entry for entry in cast("list[object]", value)
            ]
        case str() if {tuple, str} <= types:
            return [value]
        case float() if int in types and float not in types and value.is_integer() and abs(value) < 1 << 53:
            return int(value)
        case _:
            return value


def _whole_weights(mixture: list[object]) -> list[object]:
    """Return the sources with the smallest whole weights of the same ratios, if all have a number above 0."""
    weights: list[Any] = [source.get("weight") if isinstance(source, dict) else None for source in mixture]
    if not any(isinstance(weight, float) for weight in weights):
        return mixture
    if not all(type(weight) in (int, float) and 0 < weight < 1 << 32 for weight in weights):
        return mixture
    shares = [Fraction(str(weight)).limit_denominator(_MAX_DENOMINATOR) for weight in weights]
    common = math.lcm(*(share.denominator for share in shares))
    whole = [int(share * common) for share in shares]
    if 0 in whole:
        return mixture
    divisor = math.gcd(*whole) or 1
    return [{**cast(Tree, source), "weight": w // divisor} for source, w in zip(mixture, whole, strict=True)]
