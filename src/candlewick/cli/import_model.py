"""`candlewick import`: convert checkpoints of other programs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from candlewick.cli import candle
from candlewick.cli.arguments import add_option, add_output, add_reporting, as_sentence, setup_logging
from candlewick.cli.output import emit_json

if TYPE_CHECKING:
    from candlewick.runs.import_hf import ImportResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    candle.add_import(kinds)
    about = "import the weights of a Llama, Qwen3, Mistral or SmolLM3 model"
    hugging_face = kinds.add_parser("hf", help=about, description=as_sentence(about))
    hugging_face.add_argument("source", metavar="DIR", help="folder of the model, or hf://OWNER/NAME@REVISION")
    add_output(hugging_face, "folder of the checkpoint to write")
    hugging_face.set_defaults(kind_run=_hugging_face)
    for kind in kinds.choices.values():
        add_option(
            kind, "--tokenizer", "PATH", "tokenizer.json or its folder; default: the checkpoint's", type=Path
        )
        add_reporting(kind)


def run(args: argparse.Namespace) -> None:
    """Import, and print what was written."""
    setup_logging(args)
    result: ImportResult = args.kind_run(args)
    model, names = result.model, ("output", "step", "parameters", "vocab_size")
    values = {name: getattr(result, name) for name in names}
    if emit_json(args, {**values, "model": model.model_dump(mode="json")}):
        return
    print(f"wrote: {result.output}")
    shape = f"{model.num_layers} layers of {model.hidden_size}, {model.num_attention_heads} heads"
    print(f"model: {result.parameters:,} parameters, {shape}, {result.vocab_size:,} tokens")
    if result.step is None:
        print(f"try: candlewick train --init-from {result.output} --override 'data.train_shards=[TEXT]'")
    else:
        print(f"step {result.step:,}; go on: candlewick train --run-dir {result.output} --resume")


def _hugging_face(args: argparse.Namespace) -> "ImportResult":
    from candlewick.runs.import_hf import import_hugging_face

    return import_hugging_face(args.source, args.output, args.tokenizer)
