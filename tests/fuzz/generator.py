"""Random configurations: valid ones, ones at the limits, and damaged ones; each a function of one number.

Values come from the published schema, so a new setting is in the campaign as soon as it is in the tree.
"""

import copy
import random
import string
from collections.abc import Iterator
from typing import Any

from candlewick.config.formats import write_json, write_toml
from candlewick.config.schema import json_schema
from candlewick.config.yaml import write_yaml

SCHEMA = json_schema()
WRITE = {".yaml": write_yaml, ".toml": write_toml, ".json": write_json}
_SMALL = (1, 2, 2, 3, 4, 4, 8, 16, 32, 64)
_HUGE = (1 << 31, 1 << 40, (1 << 63) - 1, 1 << 63, 10**30, -1, 0)
_SHARES = (0.0, 1e-8, 1e-3, 0.01, 0.1, 0.25, 0.5, 0.9, 0.99, 1.0, 2.0, 10.0)
_EXTREME = (5e-324, 1e-300, 1e-38, 1e38, 1e300, 1.7976931348623157e308, -1.0, -0.0)
_TEXTS = (
    "",
    "a.txt",
    "stdlib://",
    "~",
    "~nobody/x",
    "s3://bucket/x",
    "é\u2028x",
    "null",
    "1e5",
    "yes",
    " ",
    "a\tb",
    "\x7f",
)
_GARBAGE = ({}, [], {"a": {"b": [1, {"c": None}]}}, [[[[]]]], "x" * 300, True, 3.5, -7, "auto", {"": 1})


def configuration(number: int) -> tuple[str, str]:
    """Return the suffix and the text of one configuration."""
    choose = random.Random(number)
    tree = _Generator(choose).section(SCHEMA)
    ends = [value for key, value in tree.get("scheduler", {}).items() if key.startswith("total_")]
    if choose.random() < 0.95 and not any(ends):
        tree.setdefault("scheduler", {})["total_steps"] = 10
    if choose.random() < 0.25:
        for _ in range(choose.randint(1, 3)):
            _damage(tree, choose)
    suffix = choose.choices(list(WRITE), (1, 2, 2))[0]  # YAML is the slowest to read
    text = WRITE[suffix](_without_nulls(tree) if suffix == ".toml" else tree)
    if choose.random() < 0.03:
        at = choose.randrange(len(text))
        text = text[:at] + choose.choice(["", "\0", "[", "\ufeff", ":", '"']) + text[at + choose.randint(0, 3) :]
    return suffix, text


class _Generator:
    def __init__(self, choose: random.Random) -> None:
        self.choose = choose
        self.boldness = choose.choice([0.0, 0.0, 0.05, 0.3])  # share of values at the limits and beyond

    def section(self, node: dict[str, Any]) -> dict[str, Any]:
        """What is required, which kind it is, and a few of the rest."""
        settings = {key: field for key, field in node["properties"].items() if key != "extends"}
        fixed = [key for key, field in settings.items() if key in node.get("required", ()) or "const" in field]
        rest = [key for key in settings if key not in fixed]
        share = self.choose.choice([0.0, 0.1, 0.2, 0.4]) if node is not SCHEMA else 0.5
        kept = [*fixed, *(key for key in rest if self.choose.random() < share)]
        self.choose.shuffle(kept)
        return {key: self.value(settings[key]) for key in kept}

    def value(self, field: dict[str, Any]) -> Any:
        """A value for a schema."""
        choose = self.choose
        bold = choose.random() < self.boldness
        if "$ref" in field:
            return self.section(SCHEMA["$defs"][field["$ref"].rsplit("/", 1)[1]])
        if "anyOf" in field:
            return self.value(choose.choice(field["anyOf"]))
        if "enum" in field or "const" in field:
            return choose.choice(field.get("enum") or [field["const"]])
        match field["type"]:
            case "null":
                return None
            case "boolean":
                return choose.random() < 0.5
            case "string":
                usual = "a.txt" if field.get("format") == "path" else "stdlib://"
                return choose.choice(_TEXTS) if bold else usual
            case "array":
                least = field.get("minItems", 0)
                return [self.value(field["items"]) for _ in range(choose.randint(least, least + 2))]
            case "object":
                names = field.get("propertyNames", {}).get("enum") or ["web", "a_1", *_TEXTS][: 2 + 20 * bold]
                chosen = choose.sample(names, choose.randint(0, 2))
                return {name: self.value(field["additionalProperties"]) for name in chosen}
            case "integer":
                return self.number(field, _HUGE if bold else _SMALL)
            case _:
                return self.number(field, _EXTREME if bold else _SHARES)

    def number(self, field: dict[str, Any], numbers: tuple[float, ...]) -> float:
        """One of the numbers that fit, or of the extreme ones whether it fits or not; else a limit."""
        low = field.get("minimum", field.get("exclusiveMinimum", -1e308))
        high = field.get("maximum", field.get("exclusiveMaximum", 1e308))
        open_ends = {field.get("exclusiveMinimum"), field.get("exclusiveMaximum")}
        if numbers in (_HUGE, _EXTREME):
            return self.choose.choice([*numbers, low, high])
        return self.choose.choice([n for n in numbers if low <= n <= high and n not in open_ends] or [low])


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) for everything in a tree."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield node, key
        yield from _places(value)


def _damage(tree: dict[str, Any], choose: random.Random) -> None:
    """Do one thing to a tree that a person or a program might do by mistake."""
    places = list(_places(tree))
    if not places:
        tree["model"] = copy.deepcopy(choose.choice(_GARBAGE))
        return
    node, key = choose.choice(places)
    match choose.randrange(7):
        case 0:
            node[key] = None
        case 1:
            node[key] = copy.deepcopy(choose.choice(_GARBAGE))
        case 2:
            node[key] = choose.choice([*_HUGE, *_EXTREME])
        case 3:
            other, name = choose.choice(places)
            node[key] = copy.deepcopy(other[name])
        case 4 if isinstance(node, dict):
            at = choose.randrange(len(key) + 1)
            node[key[:at] + choose.choice(string.ascii_lowercase + "_") + key[at + choose.randint(0, 1) :]] = (
                node.pop(key)
            )
        case 5:
            node.pop(key)
        case _:
            node[key] = str(node[key])


def _without_nulls(node: Any) -> Any:
    """TOML has no null: its text says so."""
    if isinstance(node, dict):
        return {key: _without_nulls(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_without_nulls(value) for value in node]
    return "null" if node is None else node
