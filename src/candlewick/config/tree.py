"""Flatten, compare and write the tree of settings.

`dump` writes every setting, with absolute paths, so that the result means the same in every folder.
"""

from collections.abc import Iterator
from typing import Any, cast

from pydantic import BaseModel

from candlewick.config import RunConfig
from candlewick.config.formats import Format, write_json, write_toml
from candlewick.config.yaml import Key, format_key, write_yaml

Tree = dict[str, Any]


def flatten(config: RunConfig) -> dict[str, Any]:
    """Return the value of every setting by its key, `a.b.c`; a list is one value."""
    return {format_key(key): value for key, value in leaves(config.model_dump(mode="json"), ())}


def differences(first: RunConfig, second: RunConfig) -> dict[str, Tree]:
    """Return the settings that differ, by key: the value in `first` and in `second`, where there is one.

    A section that one side lacks, because it is null there, is one value.
    """
    sides = {"first": first.model_dump(mode="json"), "second": second.model_dump(mode="json")}
    return {format_key(key): values for key, values in _differences(sides, ())}


def _differences(sides: Tree, key: Key) -> Iterator[tuple[Key, Tree]]:
    if len(sides) == 2 and all(isinstance(side, dict) for side in sides.values()):
        for name in dict.fromkeys(name for side in sides.values() for name in side):
            inner = {label: side[name] for label, side in sides.items() if name in side}
            yield from _differences(inner, (*key, name))
    elif len(sides) == 1 or sides["first"] != sides["second"]:
        yield key, sides


def leaves(value: object, key: Key) -> Iterator[tuple[Key, object]]:
    """Yield the key and the value of every setting of a tree that lies at `key`."""
    if isinstance(value, dict) and value:
        for name, item in cast(Tree, value).items():
            yield from leaves(item, (*key, name))
    else:
        yield key, value


def dump(config: RunConfig, file_format: Format) -> str:
    """Write every setting. TOML has no null: null is left out where it is the default, else the text "null"."""
    if file_format == "toml":
        return write_toml(_without_nulls(config))
    return {"yaml": write_yaml, "json": write_json}[file_format](config.model_dump(mode="json"))


def _without_nulls(section: BaseModel) -> Tree:
    tree: Tree = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value: object = getattr(section, name)
        if isinstance(value, BaseModel):
            tree[name] = _without_nulls(value)
        elif value is None and field.get_default() is None:
            del tree[name]
        elif value is None:
            tree[name] = "null"
    return tree
