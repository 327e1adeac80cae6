"""Print JSON, notes, and text that cannot command a terminal."""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from typing import TextIO

from candlewick.terminal import printable


def print_note(note: str) -> None:
    """Print a note about how an input was read, on standard error."""
    sys.stderr.write(f"note: {note}\n")


def print_stage(text: str, stream: TextIO) -> None:
    """Print a line while work goes on; once nobody reads the stream, it and all later lines go nowhere."""
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def escape_for_terminal(text: str) -> str:
    """Return text without terminal commands if standard output is a terminal; else the same text."""
    return printable(text) if sys.stdout.isatty() else text


def format_side(sides: Mapping[str, object], name: str) -> str:
    """Return the value of a setting in one of two configurations (see `config.tree.differences`) as JSON."""
    return json.dumps(sides[name], ensure_ascii=False) if name in sides else "(no such setting)"


def print_json(value: object) -> None:
    """Print one JSON document."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def emit_json(args: argparse.Namespace, result: object) -> bool:
    """Print the result as JSON if `--json` is given; return whether it was printed."""
    if args.json:
        print_json(result)
    return args.json
