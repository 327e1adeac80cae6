"""`candlewick import`: checkpoints of the seed and of Hugging Face become ones to go on with."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from candlewick.cli.arguments import (
    add_config,
    add_json,
    add_logging,
    add_output,
    print_json,
    tell,
    whole_number,
)
from candlewick.errors import ConfigError
from candlewick.terminal import setup

if TYPE_CHECKING:
    from candlewick.config import RunConfig
    from candlewick.runs.importing import Imported
    from candlewick.tokenizer.bpe import Tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    candle = kinds.add_parser(
        "candle", help="a checkpoint of the Rust system on candle, to go on with or start from"
    )
    candle.add_argument(
        "source",
        metavar="DIR",
        help="a step_* folder, or the folder of them (the newest whole one is taken), or hf://OWNER/NAME@REVISION",
    )
    add_config(candle)
    candle.add_argument("--heads", metavar="N", type=whole_number(1), help="attention heads, if no --config says")
    candle.add_argument(
        "--weights-only",
        action="store_true",
        help="leave the optimizer behind; the folder then needs nothing but model.safetensors",
    )
    _add_rest(candle, "folder of the run; with --weights-only of the checkpoint")
    candle.set_defaults(kind_run=_candle)
    hugging_face = kinds.add_parser("hf", help="the weights of a Llama, Qwen3, Mistral or SmolLM3 folder")
    hugging_face.add_argument("source", metavar="DIR", help="the folder, or hf://OWNER/NAME@REVISION")
    _add_rest(hugging_face, "folder of the checkpoint")
    hugging_face.set_defaults(kind_run=_hugging_face)


def _add_rest(parser: argparse.ArgumentParser, output: str) -> None:
    add_output(parser, output)
    parser.add_argument(
        "--tokenizer",
        metavar="PATH",
        type=Path,
        help="tokenizer.json, or the folder that holds it; default: what is there",
    )
    add_logging(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Import, and say what came out."""
    setup(args.log_level or "info")
    result: Imported = args.kind_run(args)
    if args.json:
        print_json(
            {
                "output": str(result.output),
                "step": result.step,
                "parameters": result.parameters,
                "vocab_size": result.vocab_size,
                "model": result.model.model_dump(mode="json"),
            }
        )
        return
    model = result.model
    print(f"wrote: {result.output}")
    print(
        f"model: {result.parameters:,} parameters, {model.num_layers} layers of {model.hidden_size}, "
        f"{model.num_attention_heads} heads, {result.vocab_size:,} tokens"
    )
    if result.step is None:
        print(f"try: candlewick train --init-from {result.output} --override 'data.train_shards=[TEXT]'")
    else:
        print(f"step {result.step:,}; go on: candlewick train --run-dir {result.output} --resume")


def _candle(args: argparse.Namespace) -> "Imported":
    from candlewick.config.load import load_config
    from candlewick.runs.importing import fetch_candle, import_candle

    folder = fetch_candle(args.source)
    if args.config is None:
        beside = (place / f"training.{kind}" for place in _around(folder) for kind in ("yaml", "toml"))
        args.config = next((str(path) for path in beside if path.is_file()), None)
    if args.config is None and not args.weights_only:
        raise ConfigError(
            f"{folder} says nothing of its run", "give --config training.yaml, or --weights-only with --heads N"
        )
    config = None if args.config is None else load_config(args.config, args.override, tell, as_seed=True)
    tokenizer = _tokenizer(args, config, folder)
    return import_candle(folder, config, tokenizer, args.output, heads=args.heads, weights_only=args.weights_only)


def _tokenizer(args: argparse.Namespace, config: "RunConfig | None", folder: Path) -> "Tokenizer":
    """Return the tokenizer of the command line, else of the configuration, else beside the weights."""
    from candlewick.tokenizer.bpe import Tokenizer, open_tokenizer

    if args.tokenizer is not None:
        return Tokenizer.load(args.tokenizer)
    if config is not None and (named := open_tokenizer(config.tokenizer)) is not None:
        return named
    beside = (place / name for place in _around(folder) for name in ("", "tokenizer"))
    for place in beside:
        if any((place / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            return Tokenizer.load(place)
    raise ConfigError(f"no tokenizer is named, and none lies in {folder}", "give --tokenizer PATH")


def _around(folder: Path) -> Iterator[Path]:
    """Yield a folder, and of a step or the folder of all steps the one of the run."""
    yield folder
    if folder.name.startswith("step_"):
        folder = folder.parent
        yield folder
    if folder.name in ("checkpoints", "best"):
        yield folder.parent


def _hugging_face(args: argparse.Namespace) -> "Imported":
    from candlewick.runs.importing import import_hugging_face
    from candlewick.tokenizer.bpe import Tokenizer

    tokenizer = None if args.tokenizer is None else Tokenizer.load(args.tokenizer)
    return import_hugging_face(args.source, args.output, tokenizer)
