"""`candlewick data shard`: text, of this machine or of the Hub, into shards with manifests of their hashes."""

import argparse
import hashlib
from pathlib import Path
from typing import Any

from candlewick.cli.arguments import add_json, add_logging, print_json, setup_logging, whole_number
from candlewick.errors import ConfigError

_SMOKE_DOCUMENTS = 20_000
_SMOKE_SHARE = 0.1
_ROOT = Path("/workspace")


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to below 1")
    return value


_DESCRIPTION = """Write documents into shards of so many each, with a manifest that has the hash of every shard.
Nothing is lost and nothing is cut short silently: what was stopped goes on at the next document when the same
command is given again, and ends in the same bytes."""
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "--source": {
        "metavar": "SOURCE",
        "action": "append",
        "default": [],
        "help": "a file, a folder, stdlib://, or hf://datasets/OWNER/NAME@REVISION, which may name files in it "
        "after one more /; may be given again",
    },
    "--dataset": {"metavar": "OWNER/NAME", "help": "of the Hub; default HuggingFaceFW/fineweb without --source"},
    "--split": {"default": "train", "help": "of the dataset: as its card or its file names say; default train"},
    "--mode": {
        "choices": ("smoke", "prod", "split"),
        "help": "smoke (default with --dataset): at most 20,000 documents, a tenth held out; prod (default with "
        "--source): all, nothing held out; split: all, --val-ratio held out",
    },
    "--take": {"metavar": "N", "type": whole_number(1), "help": "documents to write at most"},
    "--val-ratio": {"metavar": "X", "type": _share, "help": "share of documents held out, by the hash of each"},
    "--seed": {"metavar": "N", "type": whole_number(0), "default": 17, "help": "decides which; default 17"},
    "--lines-per-shard": {
        "metavar": "N",
        "type": whole_number(1),
        "default": 200_000,
        "help": "documents; default 200,000",
    },
    "--format": {
        "choices": ("jsonl", "text"),
        "default": "jsonl",
        "help": 'jsonl: {"text": ...} per line, lossless; text: line ends inside of documents become spaces',
    },
    "--gzip": {"action": "store_true", "help": "compress the shards"},
    "--text-field": {"metavar": "NAME", "default": "text", "help": "column with the text; default text"},
    "--documents": {"choices": ("line", "file"), "default": "line", "help": "what one of a .txt is; default line"},
    "--output": {"metavar": "DIR", "type": Path, "help": "write to DIR/train and DIR/val"},
    "--train-output": {"metavar": "DIR", "type": Path, "help": "default /workspace/datasets/train"},
    "--val-output": {"metavar": "DIR", "type": Path, "help": "default /workspace/datasets/val"},
    "--workers": {
        "metavar": "N",
        "type": whole_number(1),
        "default": 1,
        "help": "files of the Hub fetched ahead of the one that is read; default 1",
    },
    "--hf-token": {"metavar": "TOKEN", "help": "better: set HF_TOKEN, which other users here cannot see"},
    "--cache-root": {
        "metavar": "DIR",
        "type": Path,
        "help": "where files of the Hub are while they are read, and HF_HOME; default beside the train output",
    },
}


def add_arguments(actions: Any) -> None:
    """Declare the action and its arguments."""
    parser: argparse.ArgumentParser = actions.add_parser(
        "shard", help="write text as shards with hashes, from files or from the Hub", description=_DESCRIPTION
    )
    for name, options in _ARGUMENTS.items():
        parser.add_argument(name, **options)
    add_logging(parser)
    add_json(parser)
    parser.set_defaults(action_run=run)


def run(args: argparse.Namespace) -> None:
    """Shard, and say what came out."""
    from candlewick.cli.environment import use_hub

    if args.source and args.dataset:
        raise ConfigError("--source and --dataset both say what to read", "give one of them")
    sources = args.source or [f"hf://datasets/{args.dataset or 'HuggingFaceFW/fineweb'}"]
    take, share = _amount(args)
    use_hub(token=args.hf_token, home=args.cache_root)
    setup_logging(args)

    from candlewick.config import DataConfig
    from candlewick.data.shards.write import Outputs, ShardSettings, shard
    from candlewick.terminal import bytes_progress

    settings = ShardSettings(
        args.lines_per_shard, take, share, args.seed, args.format, args.gzip, args.split, _mode(args)
    )
    config = DataConfig(documents=args.documents, text_field=args.text_field)
    root = args.output or _ROOT / "datasets"
    train, validation = args.train_output or root / "train", args.val_output or root / "val"
    # one folder for each output: two commands may share a cache
    own = hashlib.sha256(str(train.absolute()).encode()).hexdigest()[:16]
    outputs = Outputs(train, validation, args.cache_root and args.cache_root / f"candlewick-shards-{own}")
    with bytes_progress("shards") as progress:
        manifests, reused = shard(sources, outputs, settings, config, ahead=args.workers, progress=progress)
    folders = [train, validation]
    if args.json:
        found = zip(folders, manifests, strict=False)
        results = [{"output": str(folder), "id": m.id, **m.details} for folder, m in found]
        print_json({"reused": reused, "outputs": results})
        return
    for folder, manifest in zip(folders, manifests, strict=False):
        details = manifest.details
        print(
            f"{'up to date' if reused else 'wrote'}: {folder}: {details['total_lines']:,} documents in "
            f"{details['total_shards']:,} shards, {details['total_bytes']:,} bytes"
        )


def _mode(args: argparse.Namespace) -> str:
    return args.mode or ("prod" if args.source else "smoke")


def _amount(args: argparse.Namespace) -> tuple[int | None, float]:
    """Return how many documents to write at most, and the share to hold out, as the mode says."""
    mode = _mode(args)
    if mode == "split" and not args.val_ratio:
        raise ConfigError("--mode split holds out a share", "give --val-ratio X")
    if mode != "smoke":
        return args.take, args.val_ratio or 0.0
    if (args.take or 0) > _SMOKE_DOCUMENTS:
        raise ConfigError(
            f"--take {args.take} is more than the {_SMOKE_DOCUMENTS} documents of --mode smoke", "give --mode prod"
        )
    return args.take or _SMOKE_DOCUMENTS, _SMOKE_SHARE if args.val_ratio is None else args.val_ratio
