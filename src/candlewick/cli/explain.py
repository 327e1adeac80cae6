"""`candlewick config explain`: what a setting means, what it may be, and which modules read it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import candlewick
from candlewick.config.schema import Group, default_words, groups, is_section, type_words
from candlewick.config_keys import Name, find_nearest, key_types, name_of
from candlewick.config_yaml import dotted
from candlewick.errors import ConfigError

_PACKAGE = Path(candlewick.__file__).parent


def explain(word: str) -> list[dict[str, Any]]:
    """Return what is known of a key: one entry for each kind of section that has it, or for each key of that name.

    Raises ConfigError that names the nearest keys.
    """
    given = name_of(tuple(re.findall(r"[\w-]+", re.sub(r"\[\d*\]", "", word))))
    if given[:-1] in key_types() and dict in key_types()[given[:-1]]:
        given = given[:-1]  # a name in a setting with names that the user chooses
    named = {given} if given in key_types() else {name for name in key_types() if name[-1:] == given}
    if not named:
        near = " or ".join(dotted(name) for name in find_nearest(given or ("",), 3))
        raise ConfigError(
            f"there is no key {word[:80]!r}", f"did you mean {near}?" if near else "see docs/config.md"
        )
    found = [entry for group in groups() for entry in _entries(group) if _name(entry["key"]) in named]
    for entry in found:
        entry["read_by"] = [] if "keys" in entry else list(readers(_name(entry["key"])[-1]))
    return found


def _name(key: str) -> Name:
    return tuple(key.replace("[]", "").split("."))


def _entries(group: Group) -> Iterator[dict[str, Any]]:
    """Yield the section itself, then its plain settings."""
    if group.name:
        yield {"key": group.name, "kind": group.kind, "meaning": group.meaning, "keys": list(group.settings)}
    for name, field in group.settings.items():
        if not is_section(field):
            yield {
                "key": f"{group.name}.{name}".removeprefix("."),
                "kind": group.kind,
                "meaning": " ".join(field.get("description", "").split()),
                "type": type_words(field).replace("`", ""),
                "default": default_words(field).replace("`", ""),
            }


def readers(name: str) -> Iterator[str]:
    """Yield `module:lines` of the package's own files that read an attribute of this name, settings left out."""
    for path in sorted(_PACKAGE.rglob("*.py")):
        place = path.relative_to(_PACKAGE).as_posix()
        text = "" if place.startswith("config") else path.read_text(encoding="utf-8")
        if f".{name}" not in text:
            continue
        lines = {
            node.lineno
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Load)
        }
        if lines:
            yield f"{place}:{','.join(map(str, sorted(lines)))}"


def print_entries(entries: list[dict[str, Any]]) -> None:
    """Write what `explain` found for a person."""
    for entry in entries:
        print(entry["key"] + (f"  (with {entry['kind']})" if entry["kind"] else ""))
        for name in ("meaning", "type", "default", "keys", "read_by"):
            value = entry.get(name)
            if value:
                print(f"  {name.replace('_', ' '):<8} {', '.join(value) if isinstance(value, list) else value}")
