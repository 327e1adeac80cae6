"""Arguments and output that several verbs share."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from candlewick.terminal import setup

if TYPE_CHECKING:  # reading it takes time that `--help` does not have
    from candlewick.config import RunConfig


def add_config(parser: argparse.ArgumentParser, *, default: str | None = None) -> None:
    """`--config FILE` and `--override KEY=VALUE`, the same in every verb that takes a configuration."""
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        default=default,
        help="YAML, TOML or JSON file, a run folder, or the name of a shipped profile (`candlewick config list`)"
        + (f"; default {default}" if default else ""),
    )
    parser.add_argument(
        "--override",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="set one key, for example optimizer.learning_rate=1e-3; may be given again; paths are relative to "
        "the folder of FILE, as those in it are",
    )


def tell(note: str) -> None:
    """Say how something was read that could have been meant otherwise."""
    sys.stderr.write(f"note: {note}\n")


def absolute(path: str) -> str:
    """Return a path of the command line so that no configuration's folder changes it; an address as it is."""
    return path if not path or "://" in path else str(Path(path).expanduser().absolute())


def load_with_origins(
    source: str | None, overrides: Sequence[str] = (), note: Callable[[str], None] = tell
) -> "tuple[RunConfig, dict[str, str]]":
    """Read a configuration, and what set each key of it; print how foreign settings were read."""
    from candlewick.cli import candle
    from candlewick.config import load

    return load.load_with_origins(source, overrides, note, candle.dialect())


def load_config(
    source: str | None, overrides: Sequence[str] = (), note: Callable[[str], None] = tell
) -> "RunConfig":
    """Read a configuration; print how foreign settings were read."""
    return load_with_origins(source, overrides, note)[0]


def read_config(args: argparse.Namespace, extra: Sequence[str] = (), cache: Path | None = None) -> "RunConfig":
    """Load what `add_config` declared; the cache is `cache`, else this user's, unless the config names one."""
    from candlewick.cli.environment import cache_home

    config = load_config(args.config, [*args.override, *extra])
    if config.data.cache_dir is not None:
        return config
    return config.replaced(data={"cache_dir": cache or cache_home()})


def add_logging(parser: argparse.ArgumentParser) -> None:
    """`--verbose` and `--quiet`, the same in every verb that logs; see `setup_logging`."""
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "-v", "--verbose", action="store_const", const="debug", dest="log_level", help="show every message"
    )
    choice.add_argument(
        "-q",
        "--quiet",
        action="store_const",
        const="warning",
        dest="log_level",
        help="show warnings and errors only",
    )


def setup_logging(args: argparse.Namespace, config: "RunConfig | None" = None) -> None:
    """Show messages from what the command line says on, else from `runtime.logging.level`, else from info."""
    setup(args.log_level or (config.runtime.logging.level if config else "info"))


def add_output(parser: argparse.ArgumentParser, help_text: str, *, required: bool = True) -> None:
    """`--output DIR`, the same in every verb that writes a folder."""
    parser.add_argument("--output", metavar="DIR", type=Path, required=required, help=help_text)


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`: the result for a program instead of for a person."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def whole_number(least: int) -> Callable[[str], int]:
    """Return a `type` for argparse: a whole number, at least `least`, that fits 63 bits."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) < 1 << 63:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
        return int(text)

    return parse


def shown(text: str) -> str:
    """Return text that may hold terminal commands: for a terminal without them, for a file as it is."""
    from candlewick.terminal import printable

    return printable(text) if sys.stdout.isatty() else text


def side(sides: Mapping[str, object], name: str) -> str:
    """Return the value of a setting in one of two configurations (`config_io.differences`), as JSON."""
    return json.dumps(sides[name], ensure_ascii=False) if name in sides else "(no such setting)"


def print_json(value: object) -> None:
    """Write one JSON document to standard output."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, default=str)
    sys.stdout.write("\n")
