"""`candlewick orchestrate`: the whole path, stage by stage; what is up to date is skipped."""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

from candlewick.cli.arguments import (
    absolute,
    add_config,
    add_json,
    add_logging,
    print_json,
    read_config,
    setup_logging,
    shown,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser, default="local")
    parser.add_argument(
        "--input",
        metavar="PATH",
        action="append",
        default=[],
        help="text to train on, instead of the config's data.train_shards; may be given again",
    )
    parser.add_argument("--run-dir", metavar="DIR", type=Path, help="default runs/NAME after the config")
    add_logging(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Run every stage that is not up to date."""
    from candlewick.pipeline.runner import orchestrate

    texts = json.dumps([absolute(path) for path in args.input], ensure_ascii=False)
    given = [f"data.train_shards={texts}"] if args.input else []
    config = read_config(args, given)
    setup_logging(args, config)
    say = partial(print, file=sys.stderr if args.json else sys.stdout, flush=True)
    result = orchestrate(config, args.run_dir or Path("runs") / Path(args.config).stem, say)
    if args.json:
        print_json(result)
        return
    for sample in result["samples"]:
        print(f"\nthe model writes:\n{shown(sample['prompt'] + sample['text'])}")
