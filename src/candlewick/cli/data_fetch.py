"""`candlewick data fetch`: download datasets from the Hub as text shards."""

import argparse
from pathlib import Path
from typing import Any

from candlewick.cli.arguments import add_action, add_count, add_logging, add_option, setup_logging
from candlewick.cli.output import emit_json
from candlewick.errors import ConfigError, DataError


def add_arguments(actions: Any) -> None:
    """Declare the action and its arguments."""
    parser = add_action(actions, "fetch", run, "download datasets from the Hub as text shards")
    about = "known name (see --list), hf://datasets/OWNER/NAME@REVISION, or a YAML or JSON file with a list of "
    about += "{name, source, split, text_field, take}"
    parser.add_argument("datasets", nargs="*", metavar="DATASET", help=about)
    parser.add_argument("--list", action="store_true", help="print the known names and exit")
    add_option(parser, "--output", "DIR", "folder to write to; each dataset gets its own folder in it", type=Path)
    add_count(parser, "--workers", "number of files to download ahead", default=1)
    add_logging(parser)


def run(args: argparse.Namespace) -> None:
    """Fetch datasets and print the state of each. Raises DataError if one failed."""
    from candlewick.runs.datasets import KNOWN_DATASETS, fetch_datasets

    setup_logging(args)
    if args.list:
        if not emit_json(args, KNOWN_DATASETS):
            for name, source in KNOWN_DATASETS.items():
                print(f"{name:<24}{source}")
        return
    if not args.datasets or args.output is None:
        raise ConfigError("no dataset or no folder to write to is given", "give DATASET and --output, or --list")
    results = fetch_datasets(args.datasets, args.output, args.workers)
    if not emit_json(args, {r.dataset.name: r.manifest.details if r.manifest else r.problem for r in results}):
        for result in results:
            manifest = result.manifest
            state = "failed" if manifest is None else "up to date" if result.reused else "fetched"
            summary = result.problem if manifest is None else f"{manifest.details['total_lines']:,} documents"
            print(f"{result.dataset.name:<24}{state:<12}{summary}")
    if failed := [result for result in results if result.manifest is None]:
        raise DataError(
            f"{len(failed)} of {len(results)} datasets could not be fetched: {failed[0].problem}",
            "run it again: finished datasets are kept",
        )
