"""`candlewick data fetch`: datasets of the Hub, by name, by address or in a list, into folders of text shards."""

import argparse
from pathlib import Path
from typing import Any

from candlewick.cli.arguments import add_json, add_logging, print_json, setup_logging, whole_number
from candlewick.errors import ConfigError, DataError


def add_arguments(actions: Any) -> None:
    """Declare the action and its arguments."""
    about = "datasets of the Hub into folders of text shards"
    parser: argparse.ArgumentParser = actions.add_parser("fetch", help=about)
    parser.add_argument(
        "datasets",
        nargs="*",
        metavar="DATASET",
        help="a known name (--list), hf://datasets/OWNER/NAME@REVISION, or a YAML or JSON file: a list of "
        "{name, source, split, text_field, take}",
    )
    parser.add_argument("--list", action="store_true", help="print the known names and end")
    parser.add_argument("--output", metavar="DIR", type=Path, help="folder to make a folder for each dataset in")
    parser.add_argument("--workers", metavar="N", type=whole_number(1), default=1, help="files fetched ahead")
    add_logging(parser)
    add_json(parser)
    parser.set_defaults(action_run=run)


def run(args: argparse.Namespace) -> None:
    """Fetch, and say what came and what did not."""
    from candlewick.data.shards.fetch import NAMED, fetch, find_datasets
    from candlewick.terminal import bytes_progress

    setup_logging(args)
    if args.list:
        sources = {name: dataset.source for name, dataset in NAMED.items()}
        if args.json:
            print_json(sources)
        for name, source in () if args.json else sources.items():
            print(f"{name:<24}{source}")
        return
    if not args.datasets or args.output is None:
        raise ConfigError("there is nothing to fetch, or no place for it", "give DATASET and --output, or --list")
    datasets = find_datasets(args.datasets)
    with bytes_progress("fetch") as progress:
        results = fetch(datasets, args.output, ahead=args.workers, progress=progress)
    failed = [result for result in results if result.manifest is None]
    if args.json:
        print_json({r.dataset.name: r.problem if r.manifest is None else r.manifest.details for r in results})
    for result in () if args.json else results:
        name, manifest = result.dataset.name, result.manifest
        state = "failed" if manifest is None else "up to date" if result.reused else "fetched"
        rest = result.problem if manifest is None else f"{manifest.details['total_lines']:,} documents"
        print(f"{name:<24}{state:<12}{rest}")
    if failed:
        raise DataError(f"{len(failed)} of {len(results)} datasets did not come: {failed[0].problem}")
