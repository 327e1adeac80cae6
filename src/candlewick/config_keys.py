"""The config tree as a flat table of keys: which may be null, which are paths, which is nearest to a wrong one.

    ("optimizer", "momentum")    {float}          a key, and the types its value may have; those of every variant
    ("tokenizer", "tokenizer_json")  {Path, NoneType}

From it, and from pydantic's errors, come the sentences that a user reads: in the user's keys (pydantic's places
also hold the names of union members), without pydantic's own follow-up errors.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from candlewick.config import RunConfig
from candlewick.config_yaml import Key, dotted, shorten

Name = tuple[str, ...]

_SHARDS: set[Name] = {("data", "train_shards"), ("data", "validation_shards")}  # paths or URIs
_MAX_SUGGESTIONS = 20
_BOOL_LIKE = {"yes", "no", "on", "off", "y", "n", "true", "false"}
_SENTENCES = {
    "bool_type": "should be true or false",
    "int_type": "should be a whole number",
    "float_type": "should be a number",
    "string_type": "should be text",
    "tuple_type": "should be a list",
    "model_type": "should be a section with keys",
}


@cache
def key_types() -> Mapping[Name, frozenset[object]]:
    """Return every key of the tree, sections too, with the types that its value may have."""
    return dict(_walk(RunConfig, ()))


def _walk(section: type[BaseModel], name: Name) -> Iterator[tuple[Name, frozenset[object]]]:
    for key, info in section.model_fields.items():
        members = frozenset(_members(info.annotation))
        yield (*name, key), members
        for member in members:
            if isinstance(member, type) and issubclass(member, BaseModel):
                yield from _walk(member, (*name, key))


def _members(annotation: object) -> Iterator[object]:
    """Yield the plain types in an annotation: of a union, each; of a list, those of its entries."""
    arguments = get_args(annotation)
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from _members(argument)


def name_of(key: Key) -> Name:
    """Drop the indexes of a key: every entry of a list has the list's name."""
    return tuple(part for part in key if isinstance(part, str))


def may_be_null(name: Name) -> bool:
    """Tell whether null is a value of this key."""
    return NoneType in key_types().get(name, ())


def is_path(name: Name) -> bool:
    """Tell whether text under this key is a path, which may be relative."""
    return Path in key_types().get(name, ()) or name in _SHARDS


def resolve_path(name: Name, text: str, folder: Path) -> str:
    """Make a path or URI absolute, relative to `folder`; expand `~`. Raises ValueError with what is wrong."""
    if not text or "\0" in text:
        raise ValueError("should be a path, or null" if may_be_null(name) else "should be a path")
    if bool in key_types().get(name, ()) and text.lower() in _BOOL_LIKE:
        raise ValueError("should be true, false or a path")
    if "://" in text:
        return text
    try:
        return str(folder / Path(text).expanduser())
    except RuntimeError:
        raise ValueError("names the home folder of a user who is not known") from None


def find_problems(error: ValidationError, tree: dict[str, Any]) -> Iterator[tuple[Key, str]]:
    """Yield (key, sentence) for each thing that is wrong with a tree."""
    sentences: dict[Key, list[str]] = {}
    values: dict[Key, str] = {}
    for detail in error.errors(include_url=False, include_input=False):
        if detail["type"] == "default_factory_not_called":  # only follows from another error
            continue
        key, sentence, shows_value = _explain(detail, tree, suggest=len(sentences) < _MAX_SUGGESTIONS)
        values[key] = f" (got {_show(look_up(tree, key))})" if shows_value else ""
        if sentence not in sentences.setdefault(key, []):
            sentences[key].append(sentence)
    for key, alternatives in sentences.items():
        yield key, " or ".join(alternatives) + values[key]


def _explain(detail: ErrorDetails, tree: dict[str, Any], *, suggest: bool) -> tuple[Key, str, bool]:
    """Return the user's key, what is wrong with it, and whether it helps to show the value."""
    key = _plain_key(detail)
    match detail["type"]:
        case "extra_forbidden":
            return key, _explain_unknown(name_of(key), tree) if suggest else "unknown key", False
        case "value_error":
            return key, detail["msg"].removeprefix("Value error, "), False
        case "union_tag_invalid":
            return (*key, "algorithm"), f"should be one of {detail.get('ctx', {})['expected_tags']}", True
        case kind:
            return key, _SENTENCES.get(kind, detail["msg"].removeprefix("Input ")), True


def _plain_key(detail: ErrorDetails) -> Key:
    """The place of an error without the names of union members in it."""
    key: Key = ()
    *around, last = detail["loc"] or ("",)
    for part in around:
        if isinstance(part, int) or name_of((*key, part)) in key_types():
            key = (*key, part)
    is_wrong_key = detail["type"] == "extra_forbidden"
    if isinstance(last, int) or is_wrong_key or name_of((*key, last)) in key_types():
        key = (*key, last)
    return key


def _explain_unknown(name: Name, tree: dict[str, Any]) -> str:
    if name in key_types():
        algorithm = look_up(tree, (*name[:-1], "algorithm"))
        return f"is a key of another algorithm{'' if algorithm is None else f' than {algorithm}'}"
    near = find_nearest(name)
    return f"unknown key, did you mean {dotted(near)}?" if near else "unknown key"


def find_nearest(name: Name) -> Name | None:
    """Return the right key that a wrong one most likely stands for: a typo, or a right name in a wrong section."""
    last, full = name[-1][:80], ".".join(name)[:200]

    def cost(key: Name) -> int:
        edits = _edits(last, key[-1])
        if len(last) >= 5 and (last in key[-1] or key[-1] in last):
            edits = min(edits, 2)  # batch_size for micro_batch_size
        return edits + (key[:-1] != name[:-1])

    costs = {key: cost(key) for key in key_types()}
    least = min(costs.values())
    if least > min(max(2, len(last) // 3), len(last) - 1):
        return None
    return min((key for key in costs if costs[key] == least), key=lambda key: _edits(full, ".".join(key)))


def _edits(left: str, right: str) -> int:
    """Count insertions, deletions, replacements and swaps of neighbors between two words."""
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left):
        older, before, row = before, row, [i + 1]
        for j, b in enumerate(right):
            best = min(before[j] + (a != b), before[j + 1] + 1, row[j] + 1)
            if i and j and a == right[j - 1] and b == left[i - 1]:
                best = min(best, older[j - 1] + 1)
            row.append(best)
    return row[-1]


def look_up(tree: object, key: Key) -> object:
    """Return what is at a key of a tree, None where there is nothing."""
    for part in key:
        if isinstance(tree, dict):
            tree = cast("dict[object, object]", tree).get(part)
        elif isinstance(tree, list) and isinstance(part, int):
            tree = cast("list[object]", tree)[part]
        else:
            return None
    return tree


def _show(value: object) -> str:
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list):
        return "a list"
    return shorten(json.dumps(value, ensure_ascii=False))
