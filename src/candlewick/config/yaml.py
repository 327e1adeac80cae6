"""A small, safe part of YAML: read without surprises, and written back.

    scheduler:                      a mapping; keys are plain text, each at most once
      strategy: wsd                 text needs no quotes
      min_lr: 1e-4                  a number (full YAML 1.1 says text), and `010`, `1:30`, `yes`,
      total_steps: 10_000           `2026-01-01` are text (it says 8, 90, true, a date)
    data: {train_shards: [a.txt]}   `true`, `false`, `null`, `~` and nothing are what they say

Anchors, aliases, tags, merge keys, several documents, numbers that are not finite or too large, and deep nesting
are refused. The reader works on the parser's events, so that it constructs no objects and knows the line of every
value.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, NamedTuple, cast

import yaml

Key = tuple[str | int, ...]

MAX_DEPTH = 32
_MAX_NODES = 20_000
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NON_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_KEYWORDS = {"": None, "~": None, "null": None, "true": True, "false": False}


class Problem(NamedTuple):
    """A problem; `key` is None if nothing after it could be read."""

    line: int
    key: Key | None
    message: str


@dataclass
class ParseResult:
    """A tree of mappings, lists and scalars, the line of each key, and the problems of the text."""

    tree: dict[str, Any] = field(default_factory=dict[str, Any])
    lines: dict[Key, int] = field(default_factory=dict[Key, int])
    problems: list[Problem] = field(default_factory=list[Problem])

    def report(self, line: int, key: Key | None, message: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(line, key, message))


class _ReadError(Exception):
    """A line, and the problem there after which reading cannot go on."""


def read_scalar(text: str) -> object:
    """Return the value of unquoted text: null, true, false, a number, or the text itself.

    Raises ValueError for numbers that are not finite or need more than 63 bits.
    """
    if text in _KEYWORDS:
        return _KEYWORDS[text]
    if _INT.fullmatch(text):
        digits = text.replace("_", "")
        if len(digits) > 20 or abs(int(digits)) >= 1 << 63:
            raise ValueError(f"{shorten(text)} is too large")
        return int(digits)
    if _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    if _FLOAT.fullmatch(text) or _NON_FINITE.fullmatch(text):
        raise ValueError(f"{shorten(text)} is not a finite number")
    return text


def load_foreign(text: str) -> object:
    """Return the value of a stranger's YAML. Raises ValueError for one that is malformed, deep or has aliases."""
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, loader)):
            raise ValueError("it has aliases, with which a short text can stand for a very large one")
        return yaml.load(text, loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None


def shorten(text: str, length: int = 60) -> str:
    """Cut text for a message, and escape characters that a terminal cannot show or would obey."""
    text = text[: length + 1]
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= length else text[: length - 3] + "..."


def parse_value(text: str) -> object:
    """Read the value of an override: a scalar, or `[..]`, `{..}` or quoted text as in YAML.

    Raises ValueError that says what is wrong.
    """
    if not text.startswith(("[", "{", '"', "'")):
        word = text.lower()
        return read_scalar(word if word in ("true", "false", "null") else text) if text else ""
    parsed = ParseResult()
    value = read_yaml(text, parsed)
    if parsed.problems:
        raise ValueError(parsed.problems[0].message)
    return value


def read_yaml(text: str, parsed: ParseResult) -> object:
    """Return the value of a document; add the lines of its keys and its problems to `parsed`."""
    try:
        return _read_document(yaml.parse(text, Loader=yaml.SafeLoader), parsed)
    except _ReadError as error:
        line, message = error.args
        parsed.report(line, None, message)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = " ".join(part for part in (error.problem, error.context) if part)
        parsed.report(mark.line + 1 if mark else 1, None, f"not valid YAML: {shorten(message, 120)}")
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        parsed.report(line, None, f"not valid YAML: U+{cast(int, error.character):04X} cannot stand there")
    except (ValueError, OverflowError, RecursionError) as error:  # of the parser itself: \UFFFFFFFF
        parsed.report(1, None, f"not valid YAML: {shorten(str(error))}")
    return None


def _read_document(events: Iterator[yaml.Event], parsed: ParseResult) -> object:
    value: object = None
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent) and parsed.lines:
            raise _ReadError(_line(event), "a second document: only one is read")
        if isinstance(event, yaml.NodeEvent):
            value = _read_node(event, events, (), parsed)
    return value


def _read_node(event: yaml.Event, events: Iterator[yaml.Event], key: Key, parsed: ParseResult) -> object:
    """Read the value that begins with `event`. MAX_DEPTH bounds the recursion."""
    line = _line(event)
    parsed.lines.setdefault(key, line)
    if len(key) > MAX_DEPTH:
        raise _ReadError(line, f"nested deeper than {MAX_DEPTH} levels")
    if len(parsed.lines) > _MAX_NODES:
        raise _ReadError(line, f"more than {_MAX_NODES} values")
    for part, feature in (("anchor", "anchors and aliases"), ("tag", "tags")):
        if (name := getattr(event, part, None)) is not None:
            raise _ReadError(line, f"{feature} ({shorten(str(name))}) are not supported: write the value out")
    if isinstance(event, yaml.MappingStartEvent):
        return _read_mapping(events, key, parsed)
    if isinstance(event, yaml.SequenceStartEvent):
        entries = takewhile(lambda entry: not isinstance(entry, yaml.SequenceEndEvent), events)
        return [_read_node(entry, events, (*key, index), parsed) for index, entry in enumerate(entries)]
    assert isinstance(event, yaml.ScalarEvent)
    if event.style:  # quoted or a block
        return cast(str, event.value)
    try:
        return read_scalar(cast(str, event.value))
    except ValueError as error:
        parsed.report(line, key, str(error))
        return None


def _read_mapping(events: Iterator[yaml.Event], key: Key, parsed: ParseResult) -> dict[str, object]:
    values: dict[str, object] = {}
    for event in takewhile(lambda event: not isinstance(event, yaml.MappingEndEvent), events):
        line = _line(event)
        if not isinstance(event, yaml.ScalarEvent) or event.anchor is not None or event.tag is not None:
            raise _ReadError(line, "a key should be plain text")
        name = cast(str, event.value)
        first = parsed.lines.setdefault((*key, name), line)
        if name in values:
            parsed.report(line, (*key, name), f"given twice, first in line {first}")
        values[name] = _read_node(next(events), events, (*key, name), parsed)
    return values


def _line(event: yaml.Event) -> int:
    return cast(int, event.start_mark.line) + 1


def format_key(key: Sequence[str | int]) -> str:
    """Write a key as in an override: `a.b[0].c`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return shorten(text.removeprefix("."), 100)


class _Writer(yaml.SafeDumper):
    """Writes what `read_yaml` reads back: quotes by its rules, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        return True


def _represent_text(writer: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        # PyYAML leaves other line breaks than \n unescaped in single quotes, and reads them as spaces
        is_plain = read_scalar(text) == text and text.splitlines() in ([], [text])
    except ValueError:
        is_plain = False
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_plain else '"')


_Writer.add_representer(str, _represent_text)


def write_yaml(tree: dict[str, Any]) -> str:
    """Write a tree in block style, keys in their order."""
    return yaml.dump(
        tree, Dumper=_Writer, sort_keys=False, allow_unicode=True, default_flow_style=False, width=1 << 20
    )
