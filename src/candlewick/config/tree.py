"""Flatten, compare and write the tree of settings.

`dump` writes every setting, with absolute paths, so that the result means the same in every folder. Paths inside a
run are written relative to it, so that it can be moved.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from candlewick.config import RunConfig
from candlewick.config.formats import Format, write_json, write_toml
from candlewick.config.keys import name_of, relative_path
from candlewick.config.yaml import Key, format_key, write_yaml

Tree = dict[str, Any]
_RETIRED = {("data", "cache_max_bytes"): "nothing is removed by itself: see `candlewick data cache`"}


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


def dropped_keys(before: Tree, after: Tree) -> str:
    """Return in words which settings of a tree another one lacks, "" for none."""
    kept = {key for key, _ in leaves(after, ())}
    return ", ".join(format_key(key) for key, _ in leaves(before, ()) if key not in kept)


def without_retired(tree: Tree, note: Callable[[str], None]) -> Tree:
    """Return a tree without keys of earlier versions that do nothing any more; note those that were set."""
    for (name, key), instead in _RETIRED.items():
        section = tree.get(name)
        if isinstance(section, dict) and key in section:
            if section[key] is not None:
                note(f"{name}.{key} does nothing any more, {instead}")
            tree = tree | {name: {other: value for other, value in section.items() if other != key}}
    return tree


def _relocatable(tree: Tree, folder: Path) -> Tree:
    """Return a tree in which paths inside a folder are relative to it."""
    folder = Path(os.path.normpath(folder.absolute()))

    def convert(value: object, key: Key) -> object:
        if isinstance(value, dict):
            return {name: convert(item, (*key, name)) for name, item in cast(Tree, value).items()}
        if isinstance(value, list):
            return [convert(item, key) for item in cast(list[object], value)]
        return relative_path(name_of(key), value, folder) if isinstance(value, str) else value

    return cast(Tree, convert(tree, ()))


def dump(config: RunConfig, file_format: Format, folder: Path | None = None) -> str:
    """Write every setting. TOML has no null: null is left out where it is the default, else the text "null".

    Paths inside `folder` are written relative to it.
    """
    tree = _without_nulls(config) if file_format == "toml" else config.model_dump(mode="json")
    if folder is not None:
        tree = _relocatable(tree, folder)
    return {"yaml": write_yaml, "json": write_json, "toml": write_toml}[file_format](tree)


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
