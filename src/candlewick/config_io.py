"""A file, a profile and overrides -> the frozen tree of `config`; and back.

    defaults  <  profile or file, after what it `extends`  <  --override key=value

All problems are found at once, and each is named with file, line and key. Text under a key that is a path is
relative to the folder of its file; of a shipped profile or an override, to the current folder. A layer that names
another `optimizer.algorithm` drops the optimizer settings below it: they were meant for the other one.

The tree that `dump_*` writes holds every setting, absolute paths included, so it means the same from everywhere.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from candlewick.config import RunConfig
from candlewick.config_keys import find_problems, is_path, key_types, may_be_null, name_of, resolve_path
from candlewick.config_text import MAX_BYTES, SUFFIXES, find_unfit, line_of, parse, write_json, write_toml
from candlewick.config_yaml import MAX_DEPTH, Key, Parsed, dotted, parse_value, shorten, write_yaml
from candlewick.errors import ConfigError

Tree = dict[str, Any]

_MAX_PARENTS = 8
_MAX_SHOWN = 20
_OVERRIDE = "--override"
_PART = r"[A-Za-z_][\w-]*(?:\[[0-9]{1,6}\])*"
_OVERRIDE_KEY = re.compile(rf"{_PART}(?:\.{_PART})*")


@dataclass(frozen=True, slots=True)
class _File:
    """A file of settings: what messages call it, where it is, where its relative paths start."""

    shown: str
    place: Path
    folder: Path
    parsed: Parsed

    def at(self, key: Key) -> str:
        """Where in the file a key is, for a message."""
        return f"{self.shown}:{line_of(self.parsed.lines, key)}"


class _Settings:
    """The tree so far, where each key of it comes from, and what is wrong with it."""

    def __init__(self) -> None:
        self.tree: Tree = {}
        self.places: dict[Key, str] = {}
        self.problems: list[tuple[str, Key, str]] = []

    def add_file(self, file: _File) -> None:
        """Lay the settings of a file over the tree. Raises ConfigError if the file cannot be read on."""
        for line, key, what in file.parsed.problems:
            if key is None:
                raise ConfigError(f"{file.shown}:{line}: {what}")
            self.problems.append((f"{file.shown}:{line}", key, what))
        tree, wrong = _resolve(file.parsed.tree, (), file.folder)
        self.problems += [(file.at(key), key, what) for key, what in wrong]
        self.tree = cast(Tree, _merge(self.tree, tree))
        self.places |= {key: file.at(key) for key in file.parsed.lines} | {(): file.shown}

    def add_override(self, key: Key, value: object) -> None:
        """Set one key. Raises ConfigError if the tree has no such place."""
        resolved, wrong = _resolve(value, key, Path.cwd())
        self.problems += [(_OVERRIDE, *problem) for problem in (*find_unfit(value, key), *wrong)]
        if key == ("optimizer", "algorithm"):
            self.tree = cast(Tree, _merge(self.tree, {"optimizer": {"algorithm": value}}))
        try:
            self.tree = cast(Tree, _assign(self.tree, key, resolved))
        except ValueError as error:
            self.problems.append((_OVERRIDE, key, str(error)))
        self.places = {k: place for k, place in self.places.items() if k[: len(key)] != key}
        self.places[key] = _OVERRIDE

    def validate(self) -> RunConfig:
        """Return the tree as a configuration. Raises ConfigError that names everything that is wrong."""
        config = None
        if not any(not key or what.startswith("has half") for _, key, what in self.problems):
            pass
        try:
            config = RunConfig.model_validate_json(to_json(self.tree))
        except ValidationError as error:
            known = {key for _, key, _ in self.problems}
            for key, what in find_problems(error, self.tree):
                if key not in known:
                    self.problems.append((self._place(key), key, what))
        if config is None or self.problems:
            raise ConfigError(self._describe())
        return config
