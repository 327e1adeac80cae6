"""`candlewick tokenizer`: train, inspect and use tokenizers."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from candlewick.artifacts.manifest import MANIFEST, Manifest, read_manifest
from candlewick.cli import candle
from candlewick.cli.arguments import (
    add_config,
    add_json,
    add_logging,
    add_output,
    load_config,
    print_json,
    setup_logging,
    shown,
)
from candlewick.errors import ConfigError, DataError

if TYPE_CHECKING:
    from candlewick.tokenizer.bpe import Tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    train = actions.add_parser("train", help="train a tokenizer on text")
    train.add_argument(
        "sources", nargs="*", metavar="SOURCE", help="files, folders or stdlib://; default data.train_shards"
    )
    add_output(
        train,
        "folder to write the tokenizer to; default artifacts.dir of a tokenizer configuration",
        required=False,
    )
    add_config(train)
    add_logging(train)
    add_json(train)
    train.set_defaults(action_run=_train)

    inspect = actions.add_parser("inspect", help="what a tokenizer is, and how well it fits a text")
    _add_tokenizer(inspect, nargs="?")
    add_config(inspect)
    inspect.add_argument("--text", metavar="FILE", type=Path, help="UTF-8 text to measure bytes per token on")
    add_json(inspect)
    inspect.set_defaults(action_run=_inspect)

    encode = actions.add_parser("encode", help="text to token ids")
    _add_tokenizer(encode)
    encode.add_argument("text", nargs="?", default="-", metavar="TEXT", help="default -, the standard input")
    add_json(encode)
    encode.set_defaults(action_run=_encode)

    decode = actions.add_parser("decode", help="token ids to text")
    _add_tokenizer(decode)
    decode.add_argument("ids", nargs="+", type=int, metavar="ID")
    add_json(decode)
    decode.set_defaults(action_run=_decode)


def _add_tokenizer(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    more = "; default what --config names" if nargs else ""
    parser.add_argument(
        "tokenizer",
        metavar="DIR",
        type=Path,
        nargs=nargs,
        help=f"folder of a tokenizer, or a tokenizer.json{more}",
    )


def run(args: argparse.Namespace) -> None:
    """Run the chosen action."""
    args.action_run(args)


def _train(args: argparse.Namespace) -> None:
    manifest, reused = candle.train_tokenizer(args) or _train_ours(args)
    if args.json:
        print_json({"output": str(args.output), "reused": reused, **_summary(manifest)})
        return
    details = manifest.details
    print(f"{'up to date' if reused else 'wrote'}: {args.output}")
    print(f"vocabulary {details['vocab_size']:,} of {details['requested_vocab_size']:,} requested tokens")
    if details["heldout"]["tokens"]:
        print(f"{details['heldout']['bytes_per_token']:.3f} bytes per token on held-out text")


def _train_ours(args: argparse.Namespace) -> tuple[Manifest, bool]:
    from candlewick.config.load import load_config
    from candlewick.data.text.source_files import open_text
    from candlewick.runs.sources import training_sources
    from candlewick.runs.tokenizer import make_tokenizer
    from candlewick.terminal import bytes_progress

    config = load_config(args.config, args.override)
    setup_logging(args, config)
    if args.output is None:
        raise ConfigError("there is no place to write the tokenizer to", "give --output DIR")
    sources = args.sources or [uri for uris in training_sources(config.data).values() for uri in uris]
    if not sources:
        raise ConfigError(
            "there is no text to train on", "name files, folders or stdlib://, or a --config that does"
        )
    with bytes_progress("tokenizer") as progress:
        text = open_text(list(dict.fromkeys(sources)), config.data)
        return make_tokenizer(text, config.tokenizer, args.output, progress=progress)


def _summary(manifest: Manifest) -> dict[str, Any]:
    return {"id": manifest.id, "details": manifest.details, "config": manifest.config}


def _inspect(args: argparse.Namespace) -> None:
    from candlewick.tokenizer.report import measure

    tokenizer = _open(args)
    result: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size,
        "pattern": tokenizer.pattern,
        "delimiter_id": tokenizer.delimiter_id,
        "end_id": tokenizer.end_id,
        "stop_ids": list(tokenizer.stop_ids),
        "padding_id": tokenizer.padding_id,
        "special_tokens": tokenizer.special_tokens,
        "template": " ".join(tokenizer.template) or None,
        "document": " ".join(filter(None, (tokenizer.roles.delimiter, "TEXT", tokenizer.roles.end))),
        "missing_bytes": tokenizer.missing_bytes,
        "changes": list(tokenizer.changes),
        "sha256": tokenizer.sha256,
        "longest_tokens": _longest(tokenizer),
    }
    if args.tokenizer is not None and args.tokenizer.is_dir() and (args.tokenizer / MANIFEST).is_file():
        manifest = read_manifest(args.tokenizer)
        if manifest.kind == "tokenizer":
            result["made"] = _summary(manifest)
    if args.text is not None:
        result["text"] = measure(tokenizer, [_read_text(args.text.read_bytes(), str(args.text))])
    if args.json:
        print_json(result)
    else:
        _print_flat(result)


def _open(args: argparse.Namespace) -> "Tokenizer":
    """Open the tokenizer of the command line, else the one that a configuration names."""
    from candlewick.tokenizer.bpe import Tokenizer, open_tokenizer

    if args.tokenizer is not None:
        return Tokenizer.load(args.tokenizer)
    named = candle.open_tokenizer(args.config) or open_tokenizer(load_config(args.config, args.override).tokenizer)
    if named is None:
        raise ConfigError("no tokenizer is named", "give its folder, or a --config that names one")
    return named


def _print_flat(result: dict[str, Any], prefix: str = "") -> None:
    for name, value in result.items():
        if isinstance(value, dict):
            _print_flat(value, f"{prefix}{name}.")
        else:
            print(f"{prefix + name:<28} {value}")


def _longest(tokenizer: "Tokenizer", count: int = 10) -> list[str]:
    tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    tokens.sort(key=lambda token: (-len(token), token))
    return [token.decode(errors="replace") for token in tokens[:count]]


def _read_text(content: bytes, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: byte {error.start} is not UTF-8", "give UTF-8 text") from None


def _encode(args: argparse.Namespace) -> None:
    from candlewick.tokenizer.bpe import Tokenizer

    tokenizer = Tokenizer.load(args.tokenizer)
    text = _read_text(sys.stdin.buffer.read(), "standard input") if args.text == "-" else args.text
    ids = tokenizer.encode(text)
    if args.json:
        pieces = [tokenizer.token_bytes(i).decode(errors="replace") for i in ids]
        print_json({"ids": ids, "pieces": pieces})
    else:
        print(*ids)


def _decode(args: argparse.Namespace) -> None:
    from candlewick.tokenizer.bpe import Tokenizer

    text = Tokenizer.load(args.tokenizer).decode(args.ids, skip_special=False)
    if args.json:
        print_json({"ids": args.ids, "text": text})
    else:
        print(shown(text))
