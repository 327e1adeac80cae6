"""Write docs/config.md and docs/metrics.md from the code that they describe.

`make docs` writes them; with `--check` (in `make check`) it only says which are out of date.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from candlewick.config import RunConfig
from candlewick.train.trackers import METRICS

FOLDER = Path(__file__).parent
CONFIG_HEAD = """# Configuration

Every key of a run. Written by `make docs` from `src/candlewick/config.py`; edit that.

A file holds only what differs from these defaults, as YAML, TOML or JSON, and may name one parent
with `extends:`. Defaults < file < `--override key=value`. An unknown key is an error. Off is `null`.
`candlewick config show --config FILE` prints the resolved tree.
"""
METRICS_HEAD = """# Metrics

Every figure that a run records, in `metrics.jsonl` and in TensorBoard. Written by `make docs` from
`src/candlewick/train/trackers.py`; edit that. The rows of the file: [formats](formats.md#run-folder).

| name | meaning |
|---|---|"""


def main() -> int:
    """Write or check the pages; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a page is out of date")
    check = parser.parse_args().check
    stale: list[str] = []
    for name, text in (("config.md", config_page()), ("metrics.md", metrics_page())):
        path = FOLDER / name
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(f"docs/{name}")
    if stale:
        sys.stderr.write(f"out of date: {', '.join(stale)} (fix: make docs)\n")
    return 1 if stale else 0


def config_page() -> str:
    """Return the whole page about the config tree."""
    schema = RunConfig.model_json_schema()
    return "\n".join([CONFIG_HEAD, *section("", schema, schema["$defs"])]).rstrip() + "\n"


def metrics_page() -> str:
    """Return the whole page about metrics."""
    return "\n".join([METRICS_HEAD, *(f"| `{name}` | {meaning} |" for name, meaning in METRICS.items())]) + "\n"


def section(path: str, node: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    """Return the table of one group of settings, then those of the groups inside it."""
    rows: list[str] = []
    inner: list[str] = []
    for key, field in node["properties"].items():
        name = f"{path}.{key}" if path else key
        groups = sections_of(field, definitions)
        for group in groups:
            title = f"\n## `{name}`" + (f" with `{chosen}`" if (chosen := choice(group)) else "") + "\n"
            inner += [title, group.get("description", "").strip(), "", *section(name, group, definitions)]
        if not groups:
            meaning = " ".join(field.get("description", "").split())
            rows.append(f"| `{key}` | {kind(field)} | {default(field)} | {meaning} |")
    head = ["| key | type | default | meaning |", "|---|---|---|---|"] if rows else []
    return [*head, *rows, *inner]


def sections_of(field: dict[str, Any], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the groups of settings that a field can hold; empty for a plain value."""
    variants = [field, *field.get("anyOf", []), *field.get("oneOf", []), *field.get("allOf", [])]
    named = [definitions[variant["$ref"].rsplit("/", 1)[1]] for variant in variants if "$ref" in variant]
    return [group for group in named if "properties" in group]


def choice(group: dict[str, Any]) -> str | None:
    """Return `algorithm: name` for one of several variants of a group."""
    return next((f"{k}: {f['const']}" for k, f in group["properties"].items() if "const" in f), None)


def kind(field: dict[str, Any]) -> str:
    """Return the type of a plain value in words."""
    if "anyOf" in field:
        return " or ".join(kind(variant) for variant in field["anyOf"])
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    names = {
        "integer": "integer",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
        "null": "null",
    }
    if field["type"] == "array":
        return f"list of {kind(field['items'])}"
    word = "path" if field.get("format") == "path" else names[field["type"]]
    return word + limits(field)


def limits(field: dict[str, Any]) -> str:
    """Return the bounds of a number."""
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {field[name]:,}".removesuffix(".0") for name, sign in signs.items() if name in field]
    return " " + ", ".join(found) if found else ""


def default(field: dict[str, Any]) -> str:
    """Return the default, as it would stand in a YAML file."""
    if "default" not in field:
        return "derived"
    value = field["default"]
    words = {True: "true", False: "false", None: "null"}
    return f"`{words[value]}`" if isinstance(value, bool) or value is None else f"`{value}`"


if __name__ == "__main__":
    raise SystemExit(main())
