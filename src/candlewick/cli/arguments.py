"""Declare arguments that several verbs share, and load what they name."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from candlewick.cli.environment import cache_home, save_stdin
from candlewick.cli.output import print_note
from candlewick.terminal import setup

SWITCH: dict[str, Any] = {"action": "store_const", "const": True}
"""How argparse reads a flag without a value: None if it is not given."""

if TYPE_CHECKING:  # reading it takes time that `--help` does not have
    from candlewick.config import RunConfig


def add_config(parser: argparse.ArgumentParser) -> None:
    """`--config FILE` and `--override KEY=VALUE`, the same in every verb that takes a configuration file."""
    about = "YAML, TOML or JSON file, run folder, or name of a shipped profile (see `candlewick config list`)"
    parser.add_argument("-c", "--config", metavar="FILE", help=about)
    add_override(parser, "; paths are relative to the folder of FILE, without FILE to the current folder")


def add_override(parser: argparse.ArgumentParser, paths: str = "") -> None:
    """`--override KEY=VALUE`, the same in every verb that takes a configuration; `paths` says what they are to."""
    about = f"set one key, for example optimizer.learning_rate=1e-3; repeatable{paths}"
    add_option(parser, "--override", "KEY=VALUE", about, action="append", default=[])


def absolute(path: str) -> str:
    """Return a path as an absolute path, relative to the working directory; a URI unchanged."""
    return path if path in ("", "-") or "://" in path else str(Path(path).expanduser().absolute())


def load_with_dialect(
    source: str | None, overrides: Sequence[str] = (), note: Callable[[str], None] = print_note
) -> "tuple[RunConfig, dict[str, str]]":
    """Load a configuration, also one of transformer_candle, and what set each key; tell what was translated."""
    from candlewick.cli import candle
    from candlewick.config import load

    return load.load_with_origins(source, overrides, note, candle.dialect())


def load_from_arguments(args: argparse.Namespace, extra: Sequence[str] = ()) -> "RunConfig":
    """Load what `add_config` and `add_sources` declared, then `extra` overrides; set up logging."""
    sources = [absolute(source) for source in getattr(args, "sources", ())]
    text = [f"data.train_shards={json.dumps(sources, ensure_ascii=False)}"] if sources else []
    if (column := getattr(args, "text_column", None)) is not None:
        text.append(f"data.text_field={json.dumps(column, ensure_ascii=False)}")
    overrides = [*_plain_overrides(args), *args.override, *text, *extra]
    config = _with_stdin(load_with_dialect(args.config, overrides)[0])
    if "log_level" in args:
        setup_logging(args, config)
    return config


def _plain_overrides(args: argparse.Namespace) -> list[str]:
    """Return the overrides of what `add_plain` declared, if any is given."""
    from candlewick.config.plain_settings import PLAIN, plain_overrides

    given = {name: value for name in PLAIN if (value := getattr(args, name, None)) is not None}
    if not given:
        return []
    base, _ = load_with_dialect(args.config, args.override, lambda _: None)
    return plain_overrides(given, base, args.override)


def _with_stdin(config: "RunConfig") -> "RunConfig":
    """Return the config with a file of standard input in the place of `-`: a run reads its text more than once."""
    data = config.data
    if "-" not in (*data.train_shards, *data.validation_shards):
        return config
    saved = str(save_stdin((data.cache_dir or cache_home()) / "stdin"))
    sides = ("train_shards", "validation_shards")
    changes = {side: tuple(saved if uri == "-" else uri for uri in getattr(data, side)) for side in sides}
    return config.replaced(data=changes)


def load_run_config(args: argparse.Namespace, extra: Sequence[str] = (), cache: Path | None = None) -> "RunConfig":
    """Load a configuration for training; data.cache_dir defaults to `cache`, else to the user's cache."""
    config = load_from_arguments(args, extra)
    return config if config.data.cache_dir else config.replaced(data={"cache_dir": cache or cache_home()})


def add_logging(parser: argparse.ArgumentParser) -> None:
    """`--verbose` and `--quiet`, the same in every verb that logs; see `setup_logging`."""
    choice = parser.add_mutually_exclusive_group()
    options: dict[str, Any] = {"action": "store_const", "dest": "log_level"}
    choice.add_argument("-v", "--verbose", **options, const="debug", help="show debug messages too")
    choice.add_argument("-q", "--quiet", **options, const="warning", help="show warnings and errors only")


def setup_logging(args: argparse.Namespace, config: "RunConfig | None" = None) -> None:
    """Show messages from the level of the command line on, else of `runtime.logging.level`, else from info."""
    setup(args.log_level or (config.runtime.logging.level if config else "info"))


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare `--json`."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_reporting(parser: argparse.ArgumentParser) -> None:
    """`--verbose`, `--quiet` and `--json`."""
    add_logging(parser)
    add_json(parser)


def add_output(parser: argparse.ArgumentParser, help_text: str, **options: Any) -> None:
    """`--output DIR`, the same in every verb that writes a folder; required unless `options` has a default."""
    required = "default" not in options
    add_option(parser, "--output", "DIR", help_text, type=Path, required=required, **options)


def add_action(
    actions: Any, name: str, run: Callable[[argparse.Namespace], None], about: str
) -> argparse.ArgumentParser:
    """Declare an action of a verb, with `--json`, and the function that runs it; return the action's parser."""
    parser: argparse.ArgumentParser = actions.add_parser(name, help=about, description=as_sentence(about))
    parser.set_defaults(run=run)
    add_json(parser)
    return parser


def as_sentence(text: str) -> str:
    """Return the short help of a verb or an action as a sentence, which its own help begins with."""
    return f"{text[0].upper()}{text[1:]}."


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """`CHECKPOINT` and `--device`, the same in every verb that loads a model."""
    parser.add_argument("checkpoint", metavar="RUN", help="run, one of its checkpoints, or hf://OWNER/NAME")
    add_choice(parser, "--device", ("auto", "cuda", "mps", "cpu"), "auto: the first of the others that works")


def add_sources(parser: argparse.ArgumentParser, about: str = "") -> None:
    """`TEXT ...` and `--text-column`, the same in every verb that reads the text of a configuration or another."""
    add_text(parser, about)
    about = "column or field with the text, of .csv, .jsonl, .parquet and so on; default text"
    parser.add_argument("--text-column", metavar="NAME", help=about)


def add_text(parser: argparse.ArgumentParser, about: str = "") -> None:
    """`TEXT ...` alone."""
    about = (
        about or "files, folders, patterns, hf://datasets/..., stories:// or stdlib://; default: data.train_shards"
    )
    parser.add_argument("sources", nargs="*", metavar="TEXT", help=about)


def add_plain(parser: argparse.ArgumentParser) -> None:
    """Declare the settings that everybody types as flags, `--steps N` and so on: see `config.plain_settings`."""
    from candlewick.config.plain_settings import PLAIN

    schemas, group = setting_schemas(), parser.add_argument_group("settings, over --config and its defaults")
    for name, key in PLAIN.items():
        about = schemas[key]["description"].partition("\n")[0].replace("%", "%%")
        kind = argument_type(schemas[key])
        group.add_argument(f"--{name.replace('_', '-')}", dest=name, help=f"{key}: {about}", **kind)


def setting_schemas() -> dict[str, dict[str, Any]]:
    """Return the schema of each setting by its key; of an optimizer's those of AdamW."""
    from candlewick.config.schema import sections

    chosen = [section for section in sections() if section.kind in (None, "algorithm: adam_w")]
    return {f"{section.name}.{key}": field for section in chosen for key, field in section.settings.items()}


def argument_type(field: dict[str, Any]) -> dict[str, Any]:
    """Return how argparse reads a setting with this schema; of alternatives the first counts, null is none."""
    kinds = field.get("anyOf", [field])
    if {"boolean", "string"} <= {kind.get("type") for kind in kinds}:  # on, or on in that folder
        return {"nargs": "?", "const": True, "type": absolute, "metavar": "DIR"}
    field = kinds[0]
    if "enum" in field:
        return {"choices": field["enum"], "type": lambda word: word.replace("-", "_")}
    if field["type"] == "boolean":
        return SWITCH
    if field["type"] == "integer":
        return {"type": whole_number(field["minimum"]), "metavar": "N"}
    if field["type"] == "number":
        return {"type": float, "metavar": "X"}
    path = {"type": absolute, "metavar": "PATH"}
    return {**path, "action": "append"} if field["type"] == "array" else path


def add_option(parser: argparse.ArgumentParser, flag: str, metavar: str, help_text: str, **options: Any) -> None:
    """Declare a flag that takes a value; the help ends with the default, if `options` has one."""
    default = options.get("default")
    if default not in (None, []):
        help_text += f"; default {default:,}" if isinstance(default, int) else f"; default {default}"
    parser.add_argument(flag, metavar=metavar, help=help_text, **options)


def add_count(
    parser: argparse.ArgumentParser, flag: str, help_text: str, *, default: int | None = None, least: int = 1
) -> None:
    """Declare a flag for a whole number of at least `least`."""
    add_option(parser, flag, "N", help_text, type=whole_number(least), default=default)


def add_choice(parser: argparse.ArgumentParser, flag: str, choices: Sequence[str], help_text: str) -> None:
    """Declare a flag for one of several words; the first is the default."""
    parser.add_argument(flag, choices=choices, default=choices[0], help=f"{help_text}; default {choices[0]}")


def whole_number(least: int) -> Callable[[str], int]:
    """Return a `type` for argparse: a whole number, at least `least`, that fits 63 bits."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) < 1 << 63:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
        return int(text)

    return parse
