"""`candlewick demo`: go from text to a trained model in one command, as `make demo` does."""

import argparse
from pathlib import Path

from candlewick.cli.arguments import add_option, add_override, add_reporting, add_sources, load_run_config
from candlewick.cli.orchestrate import orchestrate_and_print


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_sources(parser)
    add_option(parser, "--run-dir", "DIR", "folder of the run", type=Path, default=Path("runs/demo"))
    add_override(parser)
    add_reporting(parser)


def run(args: argparse.Namespace) -> None:
    """Orchestrate the `demo` profile, then print what to try next."""
    args.config = "demo"
    orchestrate_and_print(args, load_run_config(args), args.run_dir)
    if not args.json:
        print(f"\ntry next:\n  candlewick generate {args.run_dir} 'def main('")
        print(f"  candlewick demo YOUR_TEXT.txt --run-dir runs/mine\n  candlewick eval {args.run_dir}")
