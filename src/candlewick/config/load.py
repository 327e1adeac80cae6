"""Load a configuration: a file or a profile, the files that it extends, and overrides become a RunConfig.

    defaults  <  profile or file, after what it `extends`  <  --override key=value

All problems are reported at once, each with file, line and key. Relative paths start at the folder of their file,
those of overrides at the folder of the named file, else at the current folder. A layer that changes the kind of a
section (`optimizer.algorithm`, `model.rope_scaling.rope_type`) discards settings of that section in lower layers.
A layer that sets one of several exclusive keys (`_ALTERNATIVES`) discards the others in lower layers. A `Dialect`
translates the settings of another program.
"""

import difflib
import errno
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from candlewick.config import RunConfig
from candlewick.config.accept import accept
from candlewick.config.formats import MAX_BYTES, SUFFIXES, ProblemCallback, check_values, line_of, parse
from candlewick.config.keys import DISCRIMINATORS, find_problems, is_nullable, look_up, name_of, resolve_path
from candlewick.config.profiles import profiles, read_profile
from candlewick.config.seal import require_whole
from candlewick.config.tree import Tree, dropped_keys, leaves, without_retired
from candlewick.config.yaml import MAX_DEPTH, Key, ParseResult, format_key, parse_value, shorten
from candlewick.errors import ConfigError

NoteCallback = Callable[[str], None]
Source = str | Path | None

logger = logging.getLogger(__name__)

_MAX_PARENTS = 8
_MAX_LISTED = 20
_OVERRIDE = "--override"
_EVALUATION: Key = ("runtime", "evaluation")
_ALTERNATIVES: tuple[tuple[Key, tuple[str, ...]], ...] = (
    (("scheduler",), ("total_steps", "total_tokens", "total_epochs", "total_seconds")),
    (("data",), ("train_shards", "mixture")),
    (("data",), ("global_batch_size", "global_batch_tokens")),
    (_EVALUATION, ("max_tokens", "max_batches")),
)
_TOKENIZER_KEYS: tuple[Key, ...] = (("tokenizer",), ("runtime", "checkpoint", "init_from"))
_CHOICES: set[Key] = {  # keys that replace settings of lower layers
    *((*section, name) for section, names in _ALTERNATIVES for name in names),
    *((*section, name) for section, name in DISCRIMINATORS.items()),
}
_PART = r"[A-Za-z_][\w-]*(?:\[[0-9]{1,6}\])*"
_OVERRIDE_KEY = re.compile(rf"{_PART}(?:\.{_PART})*")


@dataclass(frozen=True, slots=True)
class _File:
    """A file of settings."""

    name: str  # in messages
    path: Path
    folder: Path  # where its relative paths start
    parsed: ParseResult

    def locate(self, key: Key) -> str:
        """Return the file and line of a key, for a message."""
        return f"{self.name}:{line_of(self.parsed.lines, key)}"


class Dialect:
    """Translates the settings of another program while one configuration is loaded; this class changes nothing."""

    def translate(self, tree: Tree, _where: str, _report: ProblemCallback, /) -> Tree:
        """Return the tree of a file with Candlewick's keys. A file comes after the one that it extends."""
        return tree

    def translate_override(self, key: Key, value: object) -> tuple[Key, object]:
        """Return Candlewick's key and value for those of an override."""
        return key, value

    def translate_merged(self, tree: Tree, _layer: Tree, _report: ProblemCallback, /) -> Tree:
        """Return the tree, into which a file or an override (the layer) was just merged, without foreign keys."""
        return tree

    def complete(self, tree: Tree, /) -> Tree:
        """Return the tree of all files and overrides without foreign keys and values."""
        return tree

    def rows_per_batch(self, config: RunConfig, /) -> int:
        """Return the rows of each of the validation batches that max_batches counts: those of a micro-batch."""
        return config.data.micro_batch_size

    def notes(self, _config: RunConfig, /) -> list[str]:
        """Return messages about the translation for the user."""
        return []


class _Settings:
    """The merged tree, the file and line that set each key, and the problems."""

    def __init__(self, dialect: Dialect) -> None:
        self.tree: Tree = {}
        self.locations: dict[Key, str] = {}
        self.problems: list[tuple[str, Key, str]] = []
        self.messages: list[str] = []
        self.dialect = dialect
        self.folder = Path.cwd()  # of the last file; relative paths of overrides start here

    def add_file(self, file: _File) -> None:
        """Merge the settings of a file into the tree. Raises ConfigError if the file could not be read."""
        for line, key, message in file.parsed.problems:
            if key is None:
                raise ConfigError(f"{file.name}:{line}: {message}", "correct the file")
            self.problems.append((f"{file.name}:{line}", key, message))

        def report(key: Key, message: str) -> None:
            self.problems.append((file.locate(key), key, message))

        tree = self.dialect.translate(file.parsed.tree, file.name, report)
        tree = cast(Tree, resolve_paths(tree, (), file.folder, report))
        self.folder = file.folder
        merged = merge(_without_prepared(self.tree, tree), tree)
        self.tree = self.dialect.translate_merged(merged, tree, report)
        self.locations |= {key: file.locate(key) for key in file.parsed.lines} | {(): file.name}

    def add_override(self, text: str) -> None:
        """Set one key from `key=value`."""

        def report(key: Key, message: str) -> None:
            self.problems.append((_OVERRIDE, key, message))

        name, separator, value = text.partition("=")
        if not separator or not _OVERRIDE_KEY.fullmatch(name.strip()):
            report((), f"{shorten(text)!r} should be KEY=VALUE, for example optimizer.learning_rate=1e-3")
            return
        key: Key = tuple(int(part) if part[0].isdigit() else part for part in re.findall(r"\w[\w-]*", name))
        if len(key) > MAX_DEPTH:
            report(key, f"nested deeper than {MAX_DEPTH} levels")
            return
        try:
            key, setting = self.dialect.translate_override(key, parse_value(value.strip()))
            setting = resolve_paths(check_values(setting, key, report), key, self.folder, report)
            layer, is_choice = tree_with(key, setting), key in _CHOICES
            before = self.tree = _without_prepared(self.tree, layer)
            self.tree = merge(self.tree, layer) if is_choice else cast(Tree, _assign(self.tree, key, setting))
            is_told = isinstance(setting, dict) or DISCRIMINATORS.get(key[:-1]) == key[-1]
            if is_told and (dropped := dropped_keys(before, self.tree)):
                self.messages.append(f"--override {name.strip()} drops what was set before: {dropped}")
        except ValueError as error:
            report(key, str(error))
            return
        self.tree = self.dialect.translate_merged(self.tree, layer, report)
        self.locations = {k: location for k, location in self.locations.items() if k[: len(key)] != key}
        self.locations |= {key[:end]: _OVERRIDE for end in range(len(key)) if key[:end] not in self.locations}
        self.locations[key] = _OVERRIDE

    def validate(self, note: NoteCallback) -> RunConfig:
        """Return the tree as a configuration. Raises ConfigError that names everything that is wrong."""

        def report(key: Key, message: str) -> None:
            self.problems.append((self.location(key), key, message))

        self.tree = accept(without_retired(self.dialect.complete(self.tree), note))
        self.tree = _translate_max_batches(self.tree, self.dialect.rows_per_batch, note, report)
        try:
            config = RunConfig.model_validate_json(json.dumps(self.tree))
        except ValidationError as error:
            config, reported = None, {key for _, key, _ in self.problems}
            problems = find_problems(error, self.tree)
            self.problems += [
                (self.location(key), key, message) for key, message in problems if key not in reported
            ]
        if config is None or self.problems:
            raise ConfigError(
                join_problems(self.problems),
                "correct it; `candlewick config explain KEY` says what a setting takes",
            )
        for text in (*self.messages, *self.dialect.notes(config)):
            note(text)
        return config

    def location(self, key: Key) -> str:
        """Return where a key of the tree, or the nearest section around it, was set."""
        ends = range(len(key), -1, -1)
        return next(
            (self.locations[key[:end]] for end in ends if key[:end] in self.locations), "the configuration"
        )

    def origin(self, key: Key) -> str:
        """Return where a value was set, and whether an override changed an entry of it."""
        overrides = [p for k, p in self.locations.items() if k[: len(key)] == key and p == _OVERRIDE]
        return ", ".join(dict.fromkeys([self.location(key), *overrides]))


def load_config(
    source: Source, overrides: Sequence[str] = (), note: NoteCallback = logger.info, dialect: Dialect | None = None
) -> RunConfig:
    """Read a YAML, TOML or JSON file, a run folder's config, or a shipped profile by name; None: the defaults.

    `overrides` are `key=value`; later ones win. `note` receives messages about what `dialect` translated.
    Raises ConfigError that names every problem.
    """
    return load_with_origins(source, overrides, note, dialect)[0]


def load_with_origins(
    source: Source, overrides: Sequence[str] = (), note: NoteCallback = logger.info, dialect: Dialect | None = None
) -> tuple[RunConfig, dict[str, str]]:
    """Load as `load_config` does; also return what set each key: a file and line, `--override`, or `default`."""
    settings = _Settings(dialect or Dialect())
    for file in reversed(_read_files(source)):
        settings.add_file(file)
    # an override that chooses another kind of a section drops settings of that section, so it comes first
    first = tuple(format_key((*section, name)) for section, name in DISCRIMINATORS.items())
    for override in sorted(overrides, key=lambda text: not text.strip().startswith(first)):
        settings.add_override(override)
    config = settings.validate(note)
    origins: dict[str, str] = {}
    for key, _ in leaves(config.model_dump(mode="json"), ()):
        section = look_up(settings.tree, key[:-1])
        is_set = isinstance(section, dict) and key[-1] in section
        origins[format_key(key)] = settings.origin(key) if is_set else "default"
    return config, origins


def _read_files(source: Source) -> list[_File]:
    """Read a file and the files that it extends, the nearest first."""
    files: list[_File] = []
    folder = Path()
    while source is not None:
        if len(files) > _MAX_PARENTS:
            raise ConfigError(
                f"{files[0].name}: `extends` goes through more than {_MAX_PARENTS} files", "join some of them"
            )
        file = _read_file(source, folder)
        if file.path in (other.path for other in files):
            raise ConfigError(
                f"{files[-1].name}: `extends: {source}` leads back to a file that extends it",
                "remove one `extends`",
            )
        files.append(file)
        folder = Path(file.name).parent
        source = file.parsed.tree.pop("extends", None)
        if not isinstance(source, str | None):
            raise ConfigError(
                f"{file.locate(('extends',))}: extends: should be a profile's name or one path",
                "see `candlewick config list`",
            )
    return files


def _read_file(source: str | Path, folder: Path) -> _File:
    """Read a profile, or the file at a path relative to `folder`."""
    names = profiles()
    if str(source) in names:
        parsed = parse(read_profile(str(source)), "yaml")
        return _File(f"profile {source}", Path(f"{source}.yaml"), Path.cwd(), parsed)
    try:
        path = folder / Path(source).expanduser()
        if path.is_dir():
            path = path / "config.yaml"
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is no regular file")  # a pipe would be waited for
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError, RuntimeError) as error:
        matches = difflib.get_close_matches(str(source), names, 1)
        why = error.strerror if isinstance(error, OSError) else "not a path"
        known = f"give a file or a profile: {', '.join(names)}"
        fix = f"did you mean the profile {matches[0]}?" if matches else known
        raise ConfigError(f"cannot read the configuration {shorten(str(source), 200)}: {why}", fix) from None
    file_format = SUFFIXES.get(path.suffix.lower())
    if file_format is None:
        raise ConfigError(
            f"{path}: a configuration ends in {', '.join(filter(None, SUFFIXES))}", "rename the file"
        )
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES} bytes: it is not a configuration", "check the path")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text", "save the file as UTF-8") from None
    require_whole(text, path)
    parsed = parse(text, file_format)
    if file_format == "toml":
        parsed.tree = cast(Tree, _restore_nulls(parsed.tree, ()))
    return _File(str(path), path.resolve(), path.absolute().parent, parsed)


def join_problems(problems: Sequence[tuple[str, Key, str]]) -> str:
    """Join the (location, key, message) of problems to one message, which has the first of very many."""
    parts = ((location, format_key(key), message) for location, key, message in problems)
    sentences = list(dict.fromkeys(": ".join(filter(None, part)) for part in parts))
    start = f"{len(sentences)} problems: " if len(sentences) > 1 else ""
    end = f"; and {len(sentences) - _MAX_LISTED} more" if len(sentences) > _MAX_LISTED else ""
    return start + "; ".join(sentences[:_MAX_LISTED]) + end


def _restore_nulls(value: object, key: Key) -> object:
    """Turn the text "null" into null where the setting may be null: TOML has no other way to say it."""
    if isinstance(value, dict):
        section = cast(Tree, value)
        return {name: _restore_nulls(item, (*key, name)) for name, item in section.items()}
    return None if value == "null" and is_nullable(name_of(key)) else value


def resolve_paths(value: object, key: Key, folder: Path, report: ProblemCallback) -> object:
    """Return a tree, or the value of a key, with absolute paths; relative ones start at `folder`."""
    if isinstance(value, dict):
        section = cast(Tree, value)
        return {name: resolve_paths(item, (*key, name), folder, report) for name, item in section.items()}
    if isinstance(value, list):
        entries = enumerate(cast(list[object], value))
        return [resolve_paths(item, (*key, i), folder, report) for i, item in entries]
    if isinstance(value, str):
        try:
            return resolve_path(name_of(key), value, folder)
        except ValueError as error:
            report(key, f"{error} (got {shorten(repr(value))})")
    return value


def _translate_max_batches(
    tree: Tree, rows_per_batch: Callable[[RunConfig], int], note: NoteCallback, report: ProblemCallback
) -> Tree:
    """Return the tree with max_tokens for max_batches, a key of older files."""
    key, evaluation = (*_EVALUATION, "max_batches"), look_up(tree, _EVALUATION)
    if not isinstance(evaluation, dict) or "max_batches" not in evaluation:
        return tree
    others = cast(Tree, evaluation).copy()
    batches = others.pop("max_batches")
    tree = cast(Tree, _assign(tree, _EVALUATION, others))
    if "max_tokens" in others:
        report(key, "is max_tokens in another unit: keep one of them")
    if batches is not None and (type(batches) is not int or batches < 1):
        report(key, f"should be a whole number, at least 1, or null (got {shorten(repr(batches))})")
        return tree
    try:
        config = RunConfig.model_validate_json(json.dumps(tree))
    except ValidationError:
        return tree  # its problems are found next
    tokens = batches and batches * rows_per_batch(config) * config.sequence_length
    note(f"{format_key(key)}={batches} is read as max_tokens={tokens}")
    return cast(Tree, _assign(tree, (*_EVALUATION, "max_tokens"), tokens))


def _without_prepared(tree: Tree, layer: Tree) -> Tree:
    """Return the tree without data.prepared, if a layer names another tokenizer."""
    data = tree.get("data")
    sections = [(look_up(layer, key[:-1]), key[-1]) for key in _TOKENIZER_KEYS]
    if not isinstance(data, dict) or not any(isinstance(s, dict) and name in s for s, name in sections):
        return tree
    return tree | {"data": {name: value for name, value in cast(Tree, data).items() if name != "prepared"}}


def merge(base: Tree, layer: Tree, key: Key = ()) -> Tree:
    """Return `base` with `layer` over it, both at `key`: sections are merged, other values are replaced."""
    if (kind := DISCRIMINATORS.get(key)) in layer:
        default = "muon" if key == ("optimizer",) else layer[kind]
        if layer[kind] != base.get(kind, default):
            return layer
    for section, names in _ALTERNATIVES:
        is_given = any(map(layer.get, names)) or (section == _EVALUATION and any(n in layer for n in names))
        if key == section and is_given:
            base = {name: value for name, value in base.items() if name not in names}
    merged = {**base, **layer}
    for name in base.keys() & layer.keys():
        if isinstance(base[name], dict) and isinstance(layer[name], dict):
            merged[name] = merge(base[name], layer[name], (*key, name))
    return merged


def tree_with(key: Key, value: object) -> Tree:
    """Return the tree that has a value at a key and nothing else."""
    for part in reversed(key):
        value = {part: value}
    return cast(Tree, value)


def _assign(node: object, key: Key, value: object, parents: Key = ()) -> object:
    """Return the tree `node`, which is at `parents`, with `value` at `key` in it. Raises ValueError."""
    if not key:
        return value
    part, rest = key[0], key[1:]
    if isinstance(part, str):
        if not isinstance(node, dict | None):
            raise ValueError(f"{format_key(parents)} is not a section")
        section = cast(Tree, node or {})
        return section | {part: _assign(section.get(part), rest, value, (*parents, part))}
    items: Any = (look_up(RunConfig().model_dump(mode="json"), parents) or []) if node is None else node
    if not isinstance(items, list):
        raise ValueError(f"{format_key(parents)} is not a list")
    if part > len(items):
        raise ValueError(f"{format_key(parents)} has {len(items)} entries, so the next one is [{len(items)}]")
    new = _assign(items[part] if part < len(items) else None, rest, value, (*parents, part))
    return [*items[:part], new, *items[part + 1 :]]
