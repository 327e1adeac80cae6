"""`candlewick data preprocess`: clean raw text, write it as text shards, and count what is dropped."""

import argparse
from pathlib import Path
from typing import Any

from candlewick.cli.arguments import add_action, add_choice, add_count, add_logging, add_option, setup_logging
from candlewick.cli.output import emit_json


def add_arguments(actions: Any) -> None:
    """Declare the action and its arguments."""
    parser = add_action(actions, "preprocess", run, "clean raw text into text shards, and count what is dropped")
    output, source = Path("data/processed"), Path("data/raw")
    about = f"folder to write to; default {output}"
    parser.add_argument("output", nargs="?", type=Path, default=output, metavar="OUT", help=about)
    add_option(parser, "--input", "DIR", "folder with text or a folder per corpus", type=Path, default=source)
    which = parser.add_mutually_exclusive_group()
    options: dict[str, Any] = {"action": "store_const", "dest": "which", "default": "all"}
    which.add_argument("--mixed", **options, const="mixed", help="write all corpora as one, to OUT/mixed_corpus")
    which.add_argument("--hf", **options, const="fetched", help="read only corpora that `data fetch` downloaded")
    add_count(parser, "--min-line-bytes", "drop lines of fewer bytes", default=10, least=0)
    parser.add_argument("--keep-control", action="store_true", help="keep control characters")
    parser.add_argument("--keep-spaces", action="store_true", help="keep runs of white space as they are")
    add_choice(parser, "--format", ("jsonl", "text"), "format of the shards, as in `data shard`")
    add_choice(parser, "--documents", ("file", "line"), "what a document of a .txt file is")
    add_logging(parser)


def run(args: argparse.Namespace) -> None:
    """Clean, and print how much was read, kept and dropped."""
    from candlewick.config import DataConfig
    from candlewick.runs.datasets import Cleaning, preprocess_corpora

    setup_logging(args)
    cleaning = Cleaning(args.min_line_bytes, not args.keep_control, not args.keep_spaces)
    options = {"format": args.format, "which": args.which}
    config = DataConfig(documents=args.documents)
    results = preprocess_corpora(args.input, args.output, cleaning, config, **options)
    if emit_json(args, results):
        return
    heads = ("documents", "empty", "lines", "short", "control", "bytes kept")
    columns = ("documents", "empty_documents", "lines", "short_lines", "control_characters", "bytes_after")
    print(f"{'corpus':<24}" + "".join(f"{head:>14}" for head in heads))
    for name, details in results.items():
        print(f"{name:<24}" + "".join(f"{details['cleaning'][column]:>14,}" for column in columns))
    print(f"wrote: {args.output} (dropped: empty documents, short lines, control characters)")
