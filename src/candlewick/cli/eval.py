"""`candlewick eval`: measure loss, perplexity, accuracy and bits per byte of a checkpoint."""

import argparse

from candlewick.cli.arguments import add_checkpoint, add_count, add_reporting, add_text, setup_logging
from candlewick.cli.output import emit_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_checkpoint(parser)
    add_text(parser, "text, or a token dataset (its validation split); default: validation text of the run")
    add_count(parser, "--max-tokens", "maximum number of tokens, spread over the text; default: all")
    add_reporting(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluate and print."""
    from candlewick.cli.environment import cache_home
    from candlewick.config import DataConfig
    from candlewick.runs.evaluate import evaluate_checkpoint
    from candlewick.runs.start import find_model

    setup_logging(args)
    data = DataConfig(train_shards=tuple(args.sources), cache_dir=cache_home())
    metrics = evaluate_checkpoint(
        find_model(args.checkpoint)[1], data, device=args.device, max_tokens=args.max_tokens
    )
    if not emit_json(args, metrics):
        for name, value in metrics.items():
            about = "  (the least that any model can reach on these documents)" if name.endswith("/floor") else ""
            print(f"{name.removeprefix('eval/'):>28}  {value:,.4f}{about}")
