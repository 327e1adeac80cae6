"""`candlewick data shard`: write text from files or the Hub as shards, with a manifest of their hashes."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from candlewick.cli.arguments import add_action, add_choice, add_count, add_logging, add_option, setup_logging
from candlewick.cli.environment import use_hub
from candlewick.cli.output import emit_json
from candlewick.errors import ConfigError

_SMOKE_DOCUMENTS = 20_000
_SMOKE_SHARE = 0.1
_ROOT = Path("/workspace/datasets")
_DATASET = "HuggingFaceFW/fineweb"
_DESCRIPTION = """Write documents as text shards, with a manifest that holds the hash of every shard. No document
is lost or cut short silently. After an interruption, the same command continues with the next document and
writes the same bytes."""
_SOURCE = "file, folder, stdlib://, or hf://datasets/OWNER/NAME@REVISION[/PATH]; repeatable"
_MODE = """smoke (default with --dataset): at most 20,000 documents, a tenth held out; prod (default with
--source): all documents, none held out; split: all documents, --val-ratio of them held out"""
_FORMAT = 'jsonl: a {"text": ...} per line, lossless; text: a document per line, in which line ends become spaces'


def add_arguments(actions: Any) -> None:
    """Declare the action and its arguments."""
    parser = add_action(actions, "shard", run, "write text as shards with hashes, from files or from the Hub")
    parser.description = _DESCRIPTION
    add = partial(add_option, parser)
    add("--source", "SOURCE", _SOURCE, action="append", default=[])
    add("--dataset", "OWNER/NAME", f"dataset on the Hub; without --source default {_DATASET}")
    add("--split", "NAME", "dataset split", default="train")
    parser.add_argument("--mode", choices=("smoke", "prod", "split"), help=_MODE)
    add_count(parser, "--take", "maximum number of documents")
    add("--val-ratio", "X", "share of documents to hold out, chosen by their hashes", type=float)
    add_count(parser, "--seed", "seed that selects the held-out documents", default=17, least=0)
    add_count(parser, "--lines-per-shard", "documents per shard", default=200_000)
    add_choice(parser, "--format", ("jsonl", "text"), _FORMAT)
    parser.add_argument("--gzip", action="store_true", help="compress the shards")
    add("--text-field", "NAME", "column that holds the text", default="text")
    add_choice(parser, "--documents", ("line", "file"), "what a document of a .txt file is")
    add("--output", "DIR", "folder to write to: DIR/train and DIR/val", type=Path)
    for name in ("train", "val"):
        add(f"--{name}-output", "DIR", f"folder of the {name} shards; default {_ROOT}/{name}", type=Path)
    add_count(parser, "--workers", "number of files to download ahead", default=1)
    add("--hf-token", "TOKEN", "token for the Hub; HF_TOKEN is safer: other users of this machine cannot see it")
    add("--cache-root", "DIR", "download directory, also for HF_HOME; default: beside --train-output", type=Path)
    add_logging(parser)


def run(args: argparse.Namespace) -> None:
    """Write the shards and print how many."""
    if args.source and args.dataset:
        raise ConfigError("--source and --dataset both say what to read", "give one of them")
    sources = args.source or [f"hf://datasets/{args.dataset or _DATASET}"]
    mode = args.mode or ("prod" if args.source else "smoke")
    take, share = _select_documents(args, mode)
    use_hub(token=args.hf_token, home=args.cache_root)
    setup_logging(args)

    from candlewick.config import DataConfig
    from candlewick.runs.datasets import Outputs, ShardSettings, write_shards

    settings = ShardSettings(
        args.lines_per_shard, take, share, args.seed, args.format, args.gzip, args.split, mode
    )
    config = DataConfig(documents=args.documents, text_field=args.text_field)
    root = args.output or _ROOT
    outputs = Outputs(args.train_output or root / "train", args.val_output or root / "val")
    result = write_shards(sources, outputs, settings, config, cache=args.cache_root, workers=args.workers)
    if emit_json(args, result):
        return
    state = "up to date" if result["reused"] else "wrote"
    for shards in result["outputs"]:
        documents, count, size = (shards[f"total_{what}"] for what in ("lines", "shards", "bytes"))
        print(f"{state}: {shards['output']}: {documents:,} documents in {count:,} shards, {size:,} bytes")


def _select_documents(args: argparse.Namespace, mode: str) -> tuple[int | None, float]:
    """Return the maximum number of documents and the share to hold out. Raises ConfigError."""
    if args.val_ratio is not None and not 0.0 <= args.val_ratio < 1.0:
        raise ConfigError(f"--val-ratio {args.val_ratio} is not a share from 0 to below 1", "give another one")
    if mode == "split" and not args.val_ratio:
        raise ConfigError("--mode split holds out a share", "give --val-ratio X")
    if mode != "smoke":
        return args.take, args.val_ratio or 0.0
    if (args.take or 0) > _SMOKE_DOCUMENTS:
        raise ConfigError(
            f"--take {args.take} is more than the {_SMOKE_DOCUMENTS} documents of --mode smoke", "give --mode prod"
        )
    return args.take or _SMOKE_DOCUMENTS, _SMOKE_SHARE if args.val_ratio is None else args.val_ratio
