"""Explanations of settings: meaning, possible values, value, and the modules that read it."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import candlewick
from candlewick.config import RunConfig
from candlewick.config.keys import Name, find_nearest, key_types, name_of
from candlewick.config.schema import SectionSchema, describe_default, describe_type, is_section, sections
from candlewick.config.tree import flatten
from candlewick.config.yaml import format_key
from candlewick.errors import ConfigError

_PACKAGE = Path(candlewick.__file__).parent
_OWNERS = {"config", "settings", "source", "stage", "scaling"}
"""Names that variables with settings have in the code, besides the name of the section."""


def explain(word: str, config: RunConfig, origins: dict[str, str]) -> list[dict[str, Any]]:
    """Return an entry for each setting that `word`, a key or the last part of one, names in any kind of section.

    Settings of `config` get their value, and its source from `origins` (see `load_with_origins`). Raises
    ConfigError that names the nearest keys.
    """
    name = name_of(tuple(re.findall(r"[\w-]+", re.sub(r"\[\d*\]", "", word))))
    if name[:-1] in key_types() and dict in key_types()[name[:-1]]:
        name = name[:-1]  # the user chooses the names in this setting
    matching = {name} if name in key_types() else {key for key in key_types() if key[-1:] == name}
    if not matching:
        near = " or ".join(format_key(key) for key in find_nearest(name or ("",), 3))
        raise ConfigError(
            f"there is no key {word[:80]!r}", f"did you mean {near}?" if near else "see docs/config.md"
        )
    entries = [entry for group in sections() for entry in _entries(group) if _name(entry["key"]) in matching]
    values = flatten(config)
    for entry in entries:
        key, (kind, _, chosen) = entry["key"], (entry["kind"] or "").partition(": ")
        if "keys" in entry:
            continue
        entry["read_by"] = list(readers(_name(key)))
        if key in values and values.get(f"{key.rpartition('.')[0]}.{kind}", "") == chosen:
            entry |= {"value": json.dumps(values[key], ensure_ascii=False), "source": origins[key]}
    return entries


def _name(key: str) -> Name:
    return tuple(key.replace("[]", "").split("."))


def _entries(group: SectionSchema) -> Iterator[dict[str, Any]]:
    if group.name:
        yield {"key": group.name, "kind": group.kind, "meaning": group.meaning, "keys": list(group.settings)}
    for name, field in group.settings.items():
        if not is_section(field):
            yield {
                "key": f"{group.name}.{name}".removeprefix("."),
                "kind": group.kind,
                "meaning": " ".join(field.get("description", "").split()),
                "type": describe_type(field).replace("`", ""),
                "default": describe_default(field).replace("`", ""),
            }


def readers(name: Name) -> Iterator[str]:
    """Yield `module:lines` that read a key as an attribute of its section or of one of `_OWNERS`."""
    *section, last = name
    owners = _OWNERS.union(section)
    for path in sorted(_PACKAGE.rglob("*.py")):
        module = path.relative_to(_PACKAGE).as_posix()
        text = "" if module.startswith("config") else path.read_text(encoding="utf-8")
        if f".{last}" not in text:
            continue
        lines = {
            node.lineno
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Attribute)
            and node.attr == last
            # b of `a.b.last`, and of `(a.b or c).last`
            and ast.unparse(node.value).split(" or ")[0].rpartition(".")[2] in owners
        }
        if lines:
            yield f"{module}:{','.join(map(str, sorted(lines)))}"
