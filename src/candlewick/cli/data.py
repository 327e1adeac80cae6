"""`candlewick data`: fetch, shard, clean and encode text; verify and inspect the results."""

import argparse
import sys
from pathlib import Path
from typing import Any

from candlewick.cli import data_fetch, data_preprocess, data_shard
from candlewick.cli.arguments import add_action, add_config, add_count, add_logging, add_sources, load_config
from candlewick.cli.output import emit_json, escape_for_terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    prepare = add_action(actions, "prepare", _prepare, "encode text into a token dataset")
    add_sources(prepare)
    prepare.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder of the token dataset")
    prepare.add_argument("--tokenizer", metavar="DIR", type=Path, help="its folder; default: the configured one")
    add_count(prepare, "--workers", "number of processes; default: data.num_workers, else one per core")
    add_config(prepare)
    add_logging(prepare)

    for action in (data_shard, data_fetch, data_preprocess):
        action.add_arguments(actions)

    verify = add_action(actions, "verify", _verify, "check every byte of a folder of token shards or text shards")
    inspect = add_action(actions, "inspect", _inspect, "show what a token dataset contains")
    for action in (verify, inspect):
        action.add_argument("dataset", metavar="DIR", type=Path, help="folder of the shards")
    add_count(inspect, "--decode", "also print the first N tokens as text", default=0, least=0)


def _prepare(args: argparse.Namespace) -> None:
    from candlewick.runs.datasets import prepare_dataset

    workers = [f"data.num_workers={args.workers}"] if args.workers else []
    result = prepare_dataset(load_config(args, workers), args.output, args.tokenizer)
    if emit_json(args, result):
        return
    print(f"{'up to date' if result['reused'] else 'wrote'}: {args.output}")
    _print_splits(result["details"])


def _verify(args: argparse.Namespace) -> None:
    from candlewick.runs.datasets import verify_dataset

    result = verify_dataset(args.dataset)
    if emit_json(args, result):
        return
    name = f", id {result['id']}" if "id" in result else ""
    print(f"ok: {result['files']} files, {result['bytes']:,} bytes{name}")


def _inspect(args: argparse.Namespace) -> None:
    from candlewick.runs.datasets import inspect_dataset

    result = inspect_dataset(args.dataset, args.decode)
    if emit_json(args, result):
        return
    details = result["details"]
    print(f"id          {result['id']}")
    print(f"vocabulary  {details['vocab_size']:,} tokens, tokenizer {str(result['inputs'].get('tokenizer'))[:12]}")
    print(f"validation  held out by: {details['holdout']}")
    print(f"bad UTF-8   {details['bad_utf8']['sequences']:,} sequences")
    for reason, count in details.get("left_out", {}).items():
        print(f"{reason:<12}{count:,} left out")
    for example in details["bad_utf8"]["examples"]:
        print(f"            {escape_for_terminal(example)}")
    _print_splits(details)
    if "text" in result:
        sys.stdout.write(f"\n{escape_for_terminal(result['text'])}\n")


def _print_splits(details: dict[str, Any]) -> None:
    print(f"{'split':<12}{'tokens':>16}{'documents':>14}{'bytes of text':>18}{'bytes/token':>14}")
    for name, counts in details["splits"].items():
        tokens, documents, size = (counts[key] for key in ("tokens", "documents", "text_bytes"))
        print(f"{name:<12}{tokens:>16,}{documents:>14,}{size:>18,}{size / max(tokens, 1):>14.3f}")
