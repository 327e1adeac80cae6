"""`candlewick tokenizer`: train, inspect and use tokenizers."""

import argparse
import sys
from pathlib import Path
from typing import Any

from candlewick.cli import candle
from candlewick.cli.arguments import (
    add_action,
    add_config,
    add_logging,
    add_output,
    add_sources,
    load_from_arguments,
    load_run_config,
)
from candlewick.cli.output import emit_json, escape_for_terminal
from candlewick.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    train = add_action(actions, "train", _train, "train a tokenizer on text")
    add_sources(train)
    about = "folder to write the tokenizer to; default: artifacts.dir of a transformer_candle configuration"
    add_output(train, about, default=None)
    train.add_argument("--replace", action="store_true", help="replace a tokenizer that was made otherwise")
    add_config(train)
    add_logging(train)

    inspect = add_action(actions, "inspect", _inspect, "show what a tokenizer does, and how well it fits a text")
    _add_tokenizer(inspect, nargs="?")
    add_config(inspect)
    inspect.add_argument("--text", metavar="FILE", type=Path, help="UTF-8 file to measure bytes per token on")

    encode = add_action(actions, "encode", _encode, "turn text into token ids")
    _add_tokenizer(encode)
    encode.add_argument("text", nargs="?", default="-", metavar="TEXT", help="text; default: -, standard input")

    decode = add_action(actions, "decode", _decode, "turn token ids into text")
    _add_tokenizer(decode)
    decode.add_argument("ids", nargs="+", type=int, metavar="ID", help="token ids")


def _add_tokenizer(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    about = "tokenizer.json, its folder, a run or a checkpoint" + (
        "; default: the tokenizer of --config" if nargs else ""
    )
    parser.add_argument("tokenizer", metavar="DIR", type=Path, nargs=nargs, help=about)


def _train(args: argparse.Namespace) -> None:
    manifest, reused = candle.train_tokenizer(args) or _train_configured(args)
    details = manifest.details
    summary = {"id": manifest.id, "details": details, "config": manifest.config}
    if emit_json(args, {"output": args.output, "reused": reused, **summary}):
        return
    print(f"{'up to date' if reused else 'wrote'}: {args.output}")
    print(f"vocabulary {details['vocab_size']:,} of {details['requested_vocab_size']:,} requested tokens")
    if details["heldout"]["tokens"]:
        print(f"{details['heldout']['bytes_per_token']:.3f} bytes per token on held-out text")


def _train_configured(args: argparse.Namespace) -> tuple[Any, bool]:
    from candlewick.runs.prepare import prepare_tokenizer

    config = load_run_config(args)
    if args.output is None:
        raise ConfigError("there is no folder to write the tokenizer to", "give --output DIR")
    return prepare_tokenizer(config, args.output, replace_other=args.replace)


def _inspect(args: argparse.Namespace) -> None:
    from candlewick.runs.report.tokenizer import inspect_tokenizer

    source = args.tokenizer or candle.open_tokenizer(args.config)
    result = inspect_tokenizer(source or load_from_arguments(args).tokenizer, args.text)
    if not emit_json(args, result):
        _print_flat(result)


def _print_flat(result: dict[str, Any], prefix: str = "") -> None:
    for name, value in result.items():
        if isinstance(value, dict):
            _print_flat(value, f"{prefix}{name}.")
        else:
            print(f"{prefix + name:<28} {value}")


def _encode(args: argparse.Namespace) -> None:
    from candlewick.runs.report.tokenizer import decode_utf8, encode_text

    text = decode_utf8(sys.stdin.buffer.read(), "standard input") if args.text == "-" else args.text
    result = encode_text(args.tokenizer, text)
    if not emit_json(args, result):
        print(*result["ids"])


def _decode(args: argparse.Namespace) -> None:
    from candlewick.runs.report.tokenizer import decode_ids

    result = decode_ids(args.tokenizer, args.ids)
    if not emit_json(args, result):
        print(escape_for_terminal(result["text"]))
