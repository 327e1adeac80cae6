"""`candlewick orchestrate`: run all stages from text to samples, and skip those that are up to date.

`--mode cloud` runs all but the training, in folders that environment variables name: see `cli.environment`.
"""

import argparse
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from candlewick.cli.arguments import add_config, add_reporting, load_run_config
from candlewick.cli.environment import cloud_roots, use_hub
from candlewick.cli.orchestrate_flags import PROFILES, add_flags, batch_overrides, check_flags, flag_overrides
from candlewick.cli.output import emit_json, escape_for_terminal

if TYPE_CHECKING:
    from candlewick.config import RunConfig
    from candlewick.runs.resolve import Request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser)
    add_flags(parser)
    add_reporting(parser)


def run(args: argparse.Namespace) -> None:
    """Run every stage that is not up to date."""
    check_flags(args)
    args.config = args.config or PROFILES[args.profile or "full"]
    name = args.experiment or Path(args.config).stem
    roots = cloud_roots() if args.mode == "cloud" else {}
    if roots:
        use_hub(home=roots["HF_CACHE"])

    from candlewick.config.load import load_config
    from candlewick.runs.resolve import Request
    from candlewick.runs.sharding import Sharding

    overrides = flag_overrides(args)
    overrides += batch_overrides(args, load_config(args.config, [*args.override, *overrides], lambda _: None))
    config = load_run_config(args, overrides, roots.get("CACHE"))
    sharding = None
    if roots and not args.stream:
        existing = "reuse" if args.reuse_shards else "remake" if args.force_reshard else "refuse"
        folders = {"train": roots["TRAIN"] / name, "validation": roots["VAL"] / name}
        lines = args.train_shard_lines or 1_000_000
        documents = {"train": lines, "validation": args.validation_shard_lines or lines}
        sharding = Sharding(folders, documents, existing)
    request = Request(
        resume="required" if args.resume else "if_available",
        keeps_data=True,
        skip_tokenizer=bool(args.skip_tokenizer),
        retrain_tokenizer=bool(args.force_retrain_tokenizer),
        shared_tokenizer=roots["TOKENIZER"] / name if roots else None,
        sharding=sharding,
        prepare_only=bool(roots),
    )
    orchestrate_and_print(args, config, args.run_dir or roots.get("RUNS", Path("runs")) / name, request)


def orchestrate_and_print(
    args: argparse.Namespace, config: "RunConfig", run_dir: Path, request: "Request | None" = None
) -> None:
    """Run or prepare a run, and print samples of the model or the command that trains it."""
    from candlewick.runs.orchestrate import orchestrate

    print_line = partial(print, file=sys.stderr if args.json else sys.stdout, flush=True)
    result = orchestrate(config, run_dir, print_line, request)
    if emit_json(args, result):
        return
    for sample in result.get("samples", ()):
        print(f"\nthe model writes:\n{escape_for_terminal(sample['prompt'] + sample['text'])}")
    if "command" in result:
        print(f"next: {shlex.join(result['command'])}")
