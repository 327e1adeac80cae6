"""`candlewick orchestrate`: the whole path, stage by stage; what is up to date is skipped.

With `--mode cloud` all but the training, in folders that the environment names: see `cli.environment`.
"""

import argparse
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from candlewick.cli.arguments import (
    add_config,
    add_json,
    add_logging,
    print_json,
    read_config,
    setup_logging,
    shown,
)
from candlewick.cli.environment import cloud_roots, use_hub
from candlewick.cli.orchestrate_flags import PROFILES, add_flags, batch_settings, check, settings

if TYPE_CHECKING:
    from candlewick.config import RunConfig
    from candlewick.pipeline.preparation import Options

_DOCUMENTS = 1_000_000  # per shard


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser)
    parser.add_argument(
        "--profile",
        choices=PROFILES,
        help="without --config: full (default) is the shipped profile orchestrate, local the small one of that "
        "name; its settings bound no flag, as they did in the seed",
    )
    parser.add_argument(
        "--run-dir", metavar="DIR", type=Path, help="default: of the experiment's name, see --mode"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="there has to be a checkpoint to go on with; without, there may be one",
    )
    add_flags(parser)
    add_logging(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Run every stage that is not up to date."""
    check(args)
    args.config = args.config or PROFILES[args.profile or "full"]
    name = args.experiment or Path(args.config).stem
    roots = cloud_roots() if args.mode == "cloud" else {}
    if roots:
        use_hub(home=roots["HF_CACHE"])

    from candlewick.config_io import load_config
    from candlewick.pipeline.preparation import Options
    from candlewick.pipeline.sharding import Sharding

    given = settings(args)
    given += batch_settings(args, load_config(args.config, [*args.override, *given], lambda _: None))
    config = read_config(args, given, roots.get("CACHE"))
    options = Options(
        skip_tokenizer=bool(args.skip_tokenizer),
        retrain_tokenizer=bool(args.force_retrain_tokenizer),
        resume=args.resume,
    )
    if not roots:
        go(args, config, args.run_dir or Path("runs") / name, options)
        return
    options.shared_tokenizer = roots["TOKENIZER"] / name
    if not args.stream:
        lines = (
            args.train_shard_lines or _DOCUMENTS,
            args.validation_shard_lines or args.train_shard_lines or _DOCUMENTS,
        )
        existing = "reuse" if args.reuse_shards else "remake" if args.force_reshard else "refuse"
        options.sharding = Sharding(roots["TRAIN"] / name, roots["VAL"] / name, *lines, existing)
    _prepare(args, config, args.run_dir or roots["RUNS"] / name, options)


def go(args: argparse.Namespace, config: "RunConfig", run_dir: Path, options: "Options | None" = None) -> None:
    """Run the whole path, and print what the model writes."""
    from candlewick.pipeline.runner import orchestrate

    setup_logging(args, config)
    result = orchestrate(config, run_dir, _say(args), options)
    if args.json:
        print_json(result)
        return
    for sample in result["samples"]:
        print(f"\nthe model writes:\n{shown(sample['prompt'] + sample['text'])}")


def _prepare(args: argparse.Namespace, config: "RunConfig", run_dir: Path, options: "Options") -> None:
    from candlewick.pipeline.runner import prepare_only

    setup_logging(args, config)
    result = prepare_only(config, run_dir, _say(args), options)
    if args.json:
        print_json(result)
    else:
        print(f"next: {shlex.join(result['command'])}")


def _say(args: argparse.Namespace) -> "partial[None]":
    return partial(print, file=sys.stderr if args.json else sys.stdout, flush=True)
