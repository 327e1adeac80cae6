"""`candlewick data preprocess`: raw text, cleaned, into text shards, with counts of what was dropped."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from candlewick.cli.arguments import add_json, add_logging, print_json, setup_logging, whole_number
from candlewick.errors import ConfigError, DataError

if TYPE_CHECKING:
    from candlewick.artifacts.manifest import Manifest

_MIXED = "mixed_corpus"


def add_arguments(actions: Any) -> None:
    """Declare the action and its arguments."""
    parser: argparse.ArgumentParser = actions.add_parser(
        "preprocess", help="clean raw text into text shards, with counts of what was dropped"
    )
    parser.add_argument(
        "output",
        nargs="?",
        type=Path,
        default=Path("data/processed"),
        metavar="OUT",
        help="default data/processed",
    )
    parser.add_argument(
        "--input",
        metavar="DIR",
        type=Path,
        default=Path("data/raw"),
        help="text, or a folder for each corpus; default data/raw",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--mixed", action="store_true", help=f"all corpora as one, OUT/{_MIXED}")
    which.add_argument("--hf", action="store_true", help="only corpora that `data fetch` brought")
    parser.add_argument(
        "--min-line-bytes", metavar="N", type=whole_number(0), default=10, help="drop shorter lines; default 10"
    )
    parser.add_argument("--keep-control", action="store_true", help="leave control characters in")
    parser.add_argument("--keep-spaces", action="store_true", help="leave runs of white space as they are")
    parser.add_argument("--format", choices=("jsonl", "text"), default="jsonl", help="as in `data shard`")
    parser.add_argument("--documents", choices=("file", "line"), default="file", help="what one of a .txt is")
    add_logging(parser)
    add_json(parser)
    parser.set_defaults(action_run=run)


def run(args: argparse.Namespace) -> None:
    """Clean, and print what was read, kept and dropped."""
    from candlewick.config import DataConfig
    from candlewick.data.shards.clean import Cleaning
    from candlewick.data.shards.write import Outputs, ShardSettings, shard
    from candlewick.terminal import bytes_progress

    setup_logging(args)
    cleaning = Cleaning(args.min_line_bytes, not args.keep_control, not args.keep_spaces)
    settings = ShardSettings(format=args.format, cleaning=cleaning)
    config = DataConfig(documents=args.documents)
    results: dict[str, Manifest] = {}
    for name, folders in _corpora(args.input, is_mixed=args.mixed, is_fetched=args.hf).items():
        sources = [str(folder) for folder in folders]
        with bytes_progress(name) as progress:
            outputs = Outputs(args.output / name, args.output / "val")  # nothing is held out
            manifests, _ = shard(sources, outputs, settings, config, progress=progress)
        results[name] = manifests[0]
    if args.json:
        print_json({name: manifest.details for name, manifest in results.items()})
        return
    columns = ("documents", "empty_documents", "lines", "short_lines", "control_characters", "bytes_after")
    heads = ("documents", "empty", "lines", "short", "control", "bytes kept")
    print(f"{'corpus':<24}" + "".join(f"{head:>14}" for head in heads))
    for name, manifest in results.items():
        counts = manifest.details["cleaning"]
        print(f"{name:<24}" + "".join(f"{counts[column]:>14,}" for column in columns))
    print(f"wrote: {args.output} (dropped: empty documents, short lines, control characters)")


def _corpora(folder: Path, *, is_mixed: bool, is_fetched: bool) -> dict[str, list[Path]]:
    """Return the folders of each corpus by the name of what is made of it."""
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist", "put text into it, or give --input DIR")
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if is_fetched:
        inner = [path for path in inner if (path / "manifest.json").is_file()]
        if not inner:
            raise DataError(f"{folder} has nothing that `candlewick data fetch` brought", "fetch first")
    has_files = any(path.is_file() and path.suffix != ".json" for path in folder.iterdir())
    if has_files and inner and not is_mixed:
        raise ConfigError(f"{folder} has text beside folders of corpora", "give --mixed, or move it into a folder")
    if is_mixed:
        return {_MIXED: inner if inner and not has_files else [folder]}
    return {f"{path.name}_corpus": [path] for path in inner} if inner else {f"{folder.name}_corpus": [folder]}
