"""`candlewick train`: train a model from a configuration, or resume a run."""

import argparse
import json
from pathlib import Path

from candlewick.cli import candle
from candlewick.cli.arguments import absolute, add_config, add_reporting, load_run_config
from candlewick.cli.output import emit_json
from candlewick.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser)
    about = "folder of the run, for checkpoints, metrics and logs; default: runs/NAME with the name of FILE, or "
    about += "the folder of a training.yaml that `orchestrate` wrote"
    parser.add_argument("--run-dir", metavar="DIR", type=Path, help=about)
    about = "resume from the newest checkpoint in --run-dir, with its configuration unless --config is given; "
    about += "with auto, start if there is none: one command for a job that is restarted"
    parser.add_argument("--resume", nargs="?", const=True, default=False, choices=("auto",), help=about)
    about = "start from the weights, model settings and tokenizer of this checkpoint, or of "
    about += "hf://OWNER/NAME@REVISION"
    parser.add_argument("--init-from", metavar="DIR", help=about)
    add_reporting(parser)


def run(args: argparse.Namespace) -> None:
    """Train, and print the last evaluation."""
    path = Path(args.config or "run")
    # `orchestrate` writes both files into the run folder: its training.yaml is trained in that folder
    is_prepared = path.stem == "training" and (path.parent / "special_tokens.txt").is_file()
    run_dir = args.run_dir or (path.parent if is_prepared else Path("runs") / path.stem)
    args.override = [*candle.streaming_overrides(args.config or ""), *args.override]
    saved = run_dir / "config.yaml"
    if args.resume is True and args.init_from is not None:
        raise ConfigError("--resume goes on with a run, --init-from starts a new one", "give one of them")
    if args.resume and args.config is None:
        if args.run_dir is None:
            raise ConfigError("--resume needs the folder of a run", "give its folder with --run-dir")
        if not saved.is_file():
            fix = "give the right --run-dir, or --config for a run that starts"
            raise ConfigError(f"{saved} does not exist, so there is nothing to resume", fix)
        args.config = str(saved)

    overrides: list[str] = []
    if args.init_from is not None:
        parent = json.dumps(absolute(args.init_from), ensure_ascii=False)
        overrides = [f"runtime.checkpoint.init_from={parent}"]
    config = load_run_config(args, overrides)

    from candlewick.runs.train import run_training

    result = run_training(config, run_dir, resume=args.resume)
    if not emit_json(args, result):
        loss, bits = result["metrics"]["eval/loss"], result["metrics"]["eval/bits_per_byte"]
        print(f"done: {result['steps']:,} steps, {result['tokens']:,} tokens")
        print(f"validation: loss {loss:.4f}, {bits:.4f} bits per byte")
        print(f"try: candlewick generate {run_dir}")
