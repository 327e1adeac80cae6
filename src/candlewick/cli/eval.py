"""`candlewick eval`: loss, perplexity, accuracy and bits per byte of a checkpoint."""

import argparse
from pathlib import Path

from candlewick.cli.arguments import add_json, add_logging, print_json, setup_logging, whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="a checkpoint folder, or a run folder")
    parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="*",
        help="text, or a token dataset (its validation split); default: what the run held out",
    )
    parser.add_argument(
        "--max-batches", metavar="N", type=whole_number(1), help="read at most N batches; default all"
    )
    parser.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")
    add_logging(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluate and print."""
    from candlewick.cli.environment import cache_home
    from candlewick.config import DataConfig
    from candlewick.parallel.device import find_device
    from candlewick.runs.evaluate import evaluate_checkpoint

    setup_logging(args)
    metrics = evaluate_checkpoint(
        args.checkpoint,
        DataConfig(train_shards=tuple(args.sources), cache_dir=cache_home()),
        device=find_device(args.device),
        max_batches=args.max_batches,
    )
    if args.json:
        print_json(metrics)
    else:
        for name, value in metrics.items():
            print(f"{name.removeprefix('eval/'):>28}  {value:,.4f}")
