"""Read and write configurations in YAML, TOML and JSON.

In every format, the tree holds only mappings with text keys, lists, text, true, false, null, integers of at most
63 bits and finite numbers, at most 32 levels deep, and each key once. Everything else is reported with its line.
TOML has no null: where a setting may be null, the text "null" stands for it (`config.load`).
"""

import datetime
import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Literal, cast

from candlewick.config.yaml import MAX_DEPTH, Key, ParseResult, read_yaml, shorten

Format = Literal["yaml", "toml", "json"]
ProblemCallback = Callable[[Key, str], None]

MAX_BYTES = 1 << 20
SUFFIXES: dict[str, Format] = {
    **dict.fromkeys((".yaml", ".yml"), "yaml"),
    **dict.fromkeys((".toml", ".tml", ""), "toml"),
    ".json": "json",
}
_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|[{}\[\],:]|[^\s{}\[\],:"]++')
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_TOML_HEADER = re.compile(r"\s*\[(\[?)([^\[\]]+)\]")
_TOML_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_TOML_LINE = re.compile(r" \(at line ([0-9]+), column [0-9]+\)| \(at end of document\)")


def parse(text: str, file_format: Format) -> ParseResult:
    """Read a configuration. Never raises: problems are in the result."""
    parsed = ParseResult()
    tree = {"yaml": read_yaml, "toml": _read_toml, "json": _read_json}[file_format](text, parsed)
    if isinstance(tree, dict):
        tree = check_values(tree, (), lambda key, message: parsed.report(line_of(parsed.lines, key), key, message))
        parsed.tree = cast("dict[str, Any]", tree)
    if not parsed.tree and not parsed.problems:
        parsed.report(1, None, "should hold keys with values" if tree else "holds no settings")
    return parsed


def line_of(lines: dict[Key, int], key: Key) -> int:
    """Return the line of a key, or of the nearest section around it."""
    return next((lines[key[:end]] for end in range(len(key), -1, -1) if key[:end] in lines), 1)


def check_values(value: object, key: Key, report: ProblemCallback) -> object:
    """Return the value with null in place of what a configuration cannot hold, and report the latter."""
    if len(key) > MAX_DEPTH:
        report(key, f"nested deeper than {MAX_DEPTH} levels")
    elif isinstance(value, dict):
        section = cast("dict[str, object]", value)
        return {name: check_values(item, (*key, name), report) for name, item in section.items()}
    elif isinstance(value, list):
        return [check_values(item, (*key, i), report) for i, item in enumerate(cast("list[object]", value))]
    elif isinstance(value, datetime.date | datetime.time):
        report(key, f"is a date or time, write it as text: '{value}'")
    elif isinstance(value, float) and not math.isfinite(value):
        report(key, "is not a finite number")
    elif isinstance(value, int) and abs(value) >= 1 << 63:
        report(key, "is too large a number")
    elif isinstance(value, str) and _LONE_SURROGATE.search(value):
        report(key, "has half a surrogate pair in its text")
    else:
        return value
    return None


def _read_json(text: str, parsed: ParseResult) -> object:
    try:
        # a number of more than 25 digits is refused later whatever its rest is, and Python would not read 5,000
        tree: object = json.loads(text, parse_int=lambda digits: int(digits[:25]))
    except json.JSONDecodeError as error:
        parsed.report(error.lineno, None, f"not valid JSON: {error.msg}")
    except RecursionError:
        parsed.report(1, None, f"nested deeper than {MAX_DEPTH} levels")
    else:
        if isinstance(tree, dict):
            _find_json_lines(text, parsed)
        return tree
    return None


def _find_json_lines(text: str, parsed: ParseResult) -> None:
    """Note the line of each key of valid JSON text, and report duplicate keys."""
    path: list[str | int] = []  # one part for each open mapping or list
    line, scanned, expects_key = 1, 0, False
    for match in _JSON_TOKEN.finditer(text):
        token = match[0]
        line += text.count("\n", scanned, match.start())
        scanned = match.start()
        if token in "{[":
            path.append("" if token == "{" else 0)
            expects_key = token == "{"
        elif token in "}]":
            path.pop()
            expects_key = False
        elif token == "," and isinstance(index := path[-1], int):
            path[-1] = index + 1
        elif token == ",":
            expects_key = True
        elif expects_key and token != ":":
            path[-1] = cast(str, json.loads(token))
            expects_key = False
            key = tuple(path)
            if key in parsed.lines:
                parsed.report(line, key, f"given twice, first in line {parsed.lines[key]}")
            parsed.lines.setdefault(key, line)


def _read_toml(text: str, parsed: ParseResult) -> object:
    tree: object = None
    lines = text.splitlines()
    # the reader's time grows with the square of the parts of a dotted key
    if sum(line.count(".") ** 2 for line in lines) > 1_000_000:
        parsed.report(1, None, "has too many dots in its keys")
        return tree
    try:
        tree = tomllib.loads(text)
    except RecursionError:
        parsed.report(1, None, f"nested deeper than {MAX_DEPTH} levels")
    except ValueError as error:
        match = _TOML_LINE.search(str(error))
        line = int(match[1]) if match and match[1] else len(lines) if match else 1
        parsed.report(line, None, f"not valid TOML: {shorten(_TOML_LINE.sub('', str(error)), 120)}")
    section: Key = ()
    tables: Counter[Key] = Counter()  # number of tables of each list
    for number, line in enumerate(lines, start=1):
        if header := _TOML_HEADER.match(line[:500]):
            section = _split_toml_key(header[2])
            if header[1]:
                tables[section] += 1
                section = (*section, tables[section] - 1)
            parsed.lines.setdefault(section, number)
        elif assignment := _TOML_KEY.match(line[:500]):
            parsed.lines.setdefault((*section, *_split_toml_key(assignment[1])), number)
    return tree


def _split_toml_key(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip(" \t\"'") for part in dotted.split("."))


def write_json(tree: dict[str, Any]) -> str:
    """Write a tree as indented JSON."""
    return json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_toml(tree: dict[str, Any]) -> str:
    """Write a tree without nulls: sections as tables, keys in their order."""
    return "\n".join(_toml_table(tree, ())).lstrip("\n") + "\n"


def _toml_table(section: dict[str, Any], key: tuple[str, ...]) -> Iterator[str]:
    if key:
        yield f"\n[{'.'.join(key)}]"
    for name, value in section.items():
        if not isinstance(value, dict):
            yield f"{name} = {_toml_value(value)}"
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _toml_table(cast("dict[str, Any]", value), (*key, name))


def _toml_value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, cast('list[object]', value)))}]"
    if isinstance(value, dict):  # in a list
        entries = cast("dict[str, object]", value).items()
        return f"{{{', '.join(f'{name} = {_toml_value(item)}' for name, item in entries)}}}"
    # JSON's text, numbers and booleans are TOML's too, but for one character
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")
