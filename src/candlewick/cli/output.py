"""What several verbs print: JSON, notes, and text that a terminal may show."""

import argparse
import json
import sys
from collections.abc import Mapping

from candlewick.terminal import printable


def print_note(note: str) -> None:
    """Print how an ambiguous input was read."""
    sys.stderr.write(f"note: {note}\n")


def escape_for_terminal(text: str) -> str:
    """Return text without terminal commands if it goes to a terminal; for a file as it is."""
    return printable(text) if sys.stdout.isatty() else text


def format_side(sides: Mapping[str, object], name: str) -> str:
    """Return the value of a setting in one of two configurations (`config.tree.differences`), as JSON."""
    return json.dumps(sides[name], ensure_ascii=False) if name in sides else "(no such setting)"


def print_json(value: object) -> None:
    """Write one JSON document to standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def emit_json(args: argparse.Namespace, result: object) -> bool:
    """Write the result as JSON if `--json` asks for it; return whether it did."""
    if args.json:
        print_json(result)
    return args.json
