"""`candlewick train`: train a model from a config, or go on with a run."""

import argparse
import json
from pathlib import Path

from candlewick.cli import candle
from candlewick.cli.arguments import (
    absolute,
    add_config,
    add_json,
    add_logging,
    print_json,
    read_config,
    setup_logging,
)
from candlewick.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser)
    parser.add_argument(
        "--run-dir",
        metavar="DIR",
        type=Path,
        help="folder of the run: checkpoints, metrics, logs; default runs/NAME after the config, and for the "
        "training.yaml of `orchestrate` the folder that it lies in",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint in --run-dir, with its config unless --config is given",
    )
    parser.add_argument(
        "--init-from",
        metavar="DIR",
        help="start from the weights of this checkpoint, or of hf://OWNER/NAME@REVISION; it brings the model "
        "section and the tokenizer",
    )
    add_logging(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Train, and print the last evaluation."""
    path = Path(args.config or "run")
    is_prepared = path.stem == "training" and (path.parent / "special_tokens.txt").is_file()
    run_dir = args.run_dir or (path.parent if is_prepared else Path("runs") / path.stem)
    args.override = [*candle.streaming_overrides(args.config or ""), *args.override]
    saved = run_dir / "config.yaml"
    if args.resume and args.init_from is not None:
        raise ConfigError("--resume goes on with a run, --init-from starts one", "give one of them")
    if args.resume and args.config is None:
        if not saved.is_file():
            raise ConfigError(f"{saved} does not exist, so there is nothing to resume", "give the right --run-dir")
        args.config = str(saved)

    extra: list[str] = []
    if args.init_from is not None:
        extra.append(f"runtime.checkpoint.init_from={json.dumps(absolute(args.init_from), ensure_ascii=False)}")
    config = read_config(args, extra)
    setup_logging(args, config)

    from candlewick.runs.train import run_training

    result = run_training(config, run_dir, resume=args.resume)
    if args.json:
        print_json(result)
    else:
        loss, bits = result["metrics"]["eval/loss"], result["metrics"]["eval/bits_per_byte"]
        print(f"done: {result['steps']:,} steps, {result['tokens']:,} tokens")
        print(f"validation: loss {loss:.4f}, {bits:.4f} bits per byte")
        print(f"try: candlewick generate {run_dir}")
