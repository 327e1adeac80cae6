"""`candlewick import`: checkpoints of other programs become ones to go on with."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from candlewick.cli import candle
from candlewick.cli.arguments import add_json, add_logging, add_output, print_json
from candlewick.terminal import setup

if TYPE_CHECKING:
    from candlewick.runs.import_hf import Imported


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    candle.add_import(kinds)
    hugging_face = kinds.add_parser("hf", help="the weights of a Llama, Qwen3, Mistral or SmolLM3 folder")
    hugging_face.add_argument("source", metavar="DIR", help="the folder, or hf://OWNER/NAME@REVISION")
    add_output(hugging_face, "folder of the checkpoint")
    hugging_face.set_defaults(kind_run=_hugging_face)
    for kind in kinds.choices.values():
        kind.add_argument(
            "--tokenizer",
            metavar="PATH",
            type=Path,
            help="tokenizer.json, or the folder that holds it; default: what is there",
        )
        add_logging(kind)
        add_json(kind)


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


def _hugging_face(args: argparse.Namespace) -> "Imported":
    from candlewick.runs.import_hf import import_hugging_face

    return import_hugging_face(args.source, args.output, args.tokenizer)
