"""`candlewick data`: fetch, shard, clean and encode text; verify and inspect the results."""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from candlewick.cli.arguments import (
    add_action,
    add_choice,
    add_config,
    add_count,
    add_logging,
    add_option,
    add_sources,
    load_run_config,
    setup_logging,
)
from candlewick.cli.environment import cache_home, use_hub
from candlewick.cli.output import emit_json, escape_for_terminal
from candlewick.errors import ConfigError, DataError

if TYPE_CHECKING:
    from candlewick.runs.datasets import CachedFolder

_SMOKE_DOCUMENTS = 20_000
_SMOKE_SHARE = 0.1
_ROOT = Path("/workspace/datasets")
_DATASET = "HuggingFaceFW/fineweb"
_TOKEN = "token for the Hub; HF_TOKEN is safer: other users of this machine cannot see it"
_CODE = tuple(f"the-stack-{language}" for language in ("python", "javascript", "rust", "go", "java"))
_GROUPS = {"books": ("pg19",), "code": _CODE, "all": ("openwebtext", "wikipedia", "pg19", *_CODE)}
_RAW, _FETCHED, _PROCESSED = (Path("data") / name for name in ("raw", "raw_hf", "processed"))
_DESCRIPTION = """Write documents as text shards, with a manifest that holds the hash of every shard. No document
is lost or cut short silently. After an interruption, the same command continues with the next document and
writes the same bytes."""
_SOURCE = "file, folder, stories://, stdlib://, or hf://datasets/OWNER/NAME@REVISION[/PATH]; repeatable"
_MODE = """smoke (default with --dataset): 20,000 documents or --take, a tenth held out; prod (default with
--source): all documents, none held out; split: all documents, --val-ratio of them held out"""
_FORMAT = 'jsonl: a {"text": ...} per line, lossless; text: a document per line, in which line ends become spaces'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    prepare = add_action(actions, "prepare", _prepare, "encode text into a token dataset")
    add_sources(prepare)
    prepare.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder of the token dataset")
    prepare.add_argument("--tokenizer", metavar="DIR", type=Path, help="its folder; default: the configured one")
    prepare.add_argument("--replace", action="store_true", help="replace a dataset that was made otherwise")
    add_count(prepare, "--workers", "number of processes; default: data.num_workers, else one per core")
    add_config(prepare)
    add_logging(prepare)

    _add_shard(actions)
    _add_fetch(actions)
    _add_preprocess(actions)

    _add_cache(actions)

    verify = add_action(actions, "verify", _verify, "check every byte of a folder of token shards or text shards")
    inspect = add_action(actions, "inspect", _inspect, "show what a token dataset contains")
    for action in (verify, inspect):
        action.add_argument("dataset", metavar="DIR", type=Path, help="folder of the shards")
    add_count(inspect, "--decode", "also print the first N tokens as text", default=0, least=0)


def _prepare(args: argparse.Namespace) -> None:
    from candlewick.runs.datasets import prepare_dataset

    workers = [f"data.num_workers={args.workers}"] if args.workers else []
    config = load_run_config(args, workers)
    result = prepare_dataset(config, args.output, args.tokenizer, replace_other=args.replace)
    if emit_json(args, result):
        return
    print(f"{'up to date' if result['reused'] else 'wrote'}: {args.output}")
    _print_splits(result["details"])


def _add_shard(actions: Any) -> None:
    parser = add_action(actions, "shard", _shard, "write text as shards with hashes, from files or from the Hub")
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
    parser.add_argument("--replace", action="store_true", help="replace shards that were made otherwise")
    add("--text-field", "NAME", "column that holds the text", default="text")
    add_choice(parser, "--documents", ("line", "file"), "what a document of a .txt file is")
    add("--output", "DIR", "folder to write to: DIR/train and DIR/val", type=Path)
    for name in ("train", "val"):
        add(f"--{name}-output", "DIR", f"folder of the {name} shards; default {_ROOT}/{name}", type=Path)
    add_count(parser, "--workers", "number of files to download ahead", default=1)
    add("--hf-token", "TOKEN", _TOKEN)
    add("--cache-root", "DIR", "download directory, also for HF_HOME; default: beside --train-output", type=Path)
    add_logging(parser)


def _shard(args: argparse.Namespace) -> None:
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
    config = DataConfig(documents=args.documents, text_field=args.text_field, cache_dir=cache_home())
    root = args.output or _ROOT
    folders = args.train_output or root / "train", args.val_output or root / "val"
    outputs = Outputs(*folders, replaces_other=args.replace)
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
    return args.take or _SMOKE_DOCUMENTS, _SMOKE_SHARE if args.val_ratio is None else args.val_ratio


def _add_fetch(actions: Any) -> None:
    parser = add_action(actions, "fetch", _fetch, "download datasets from the Hub as text shards")
    about = "known name (see --list), hf://datasets/OWNER/NAME@REVISION, or a YAML or JSON file with a list of "
    about += "{name, source, split, text_field, take}"
    parser.add_argument("sources", nargs="*", metavar="DATASET", help=about)
    parser.add_argument("--list", action="store_true", help="print the known names and exit")
    about = f"known names too, and {', '.join(_GROUPS)}"
    parser.add_argument("--datasets", nargs="+", default=[], metavar="DATASET", help=about)
    add_option(
        parser, "--private-dataset", "OWNER/NAME", "one more dataset on the Hub", action="append", default=[]
    )
    about = f"folder to write to; each dataset gets its own folder in it; with --datasets default {_FETCHED}"
    parser.add_argument("--output", "--output-dir", metavar="DIR", type=Path, help=about)
    add_count(parser, "--max-examples", "maximum number of documents of each dataset")
    add_count(parser, "--chunk-size", "documents per shard", default=200_000)
    add_option(parser, "--hf-token", "TOKEN", _TOKEN)
    add_count(parser, "--workers", "number of files to download ahead", default=1)
    add_logging(parser)


def _fetch(args: argparse.Namespace) -> None:
    """Fetch datasets and print the state of each. Raises DataError if one failed."""
    use_hub(token=args.hf_token)

    from candlewick.runs.datasets import KNOWN_DATASETS, fetch_datasets

    setup_logging(args)
    if args.list:
        if not emit_json(args, KNOWN_DATASETS):
            for name, source in KNOWN_DATASETS.items():
                print(f"{name:<24}{source}")
        return
    private = [f"hf://datasets/{name}" for name in args.private_dataset]
    chosen = [word for name in args.datasets for word in _GROUPS.get(name, (name,))]
    sources = list(dict.fromkeys([*args.sources, *chosen, *private]))
    output = args.output or (_FETCHED if chosen or private else None)
    if not sources or output is None:
        raise ConfigError("no dataset or no folder to write to is given", "give DATASET and --output, or --list")
    limits = {"take": args.max_examples, "documents_per_shard": args.chunk_size}
    results = fetch_datasets(sources, output, args.workers, **limits)
    if not emit_json(args, {r.dataset.name: r.manifest.details if r.manifest else r.problem for r in results}):
        for result in results:
            manifest = result.manifest
            state = "failed" if manifest is None else "up to date" if result.reused else "fetched"
            summary = result.problem if manifest is None else f"{manifest.details['total_lines']:,} documents"
            print(f"{result.dataset.name:<24}{state:<12}{summary}")
    if failed := [result for result in results if result.manifest is None]:
        raise DataError(
            f"{len(failed)} of {len(results)} datasets could not be fetched",
            "do what their lines say, and run it again: finished datasets are kept",
        )


def _add_preprocess(actions: Any) -> None:
    parser = add_action(
        actions, "preprocess", _preprocess, "clean raw text into text shards, and count what is dropped"
    )
    about = f"folder to write to, default {_PROCESSED}; NAME.txt: all corpora as one, to {_PROCESSED}/NAME"
    parser.add_argument("output", nargs="?", type=Path, default=_PROCESSED, metavar="OUT", help=about)
    about = f"folder with text or a folder per corpus; default {_RAW}, and {_FETCHED} with --mixed"
    parser.add_argument("--input", metavar="DIR", type=Path, help=about)
    which = parser.add_mutually_exclusive_group()
    options: dict[str, Any] = {"action": "store_const", "dest": "which", "default": "all"}
    which.add_argument("--mixed", **options, const="mixed_corpus", help="write all as one, to OUT/mixed_corpus")
    which.add_argument("--hf", **options, const="fetched", help="read only corpora that `data fetch` downloaded")
    add_count(parser, "--min-line-bytes", "drop lines of fewer bytes", default=10, least=0)
    parser.add_argument("--keep-control", action="store_true", help="keep control characters")
    parser.add_argument("--keep-spaces", action="store_true", help="keep runs of white space as they are")
    add_choice(parser, "--format", ("jsonl", "text"), "format of the shards, as in `data shard`")
    add_choice(parser, "--documents", ("file", "line"), "what a document of a .txt file is")
    add_logging(parser)


def _preprocess(args: argparse.Namespace) -> None:
    from candlewick.config import DataConfig
    from candlewick.runs.datasets import Cleaning, preprocess_corpora

    setup_logging(args)
    cleaning = Cleaning(args.min_line_bytes, not args.keep_control, not args.keep_spaces)
    inputs = [args.input or _RAW]
    if args.input is None and args.which == "mixed_corpus" and _FETCHED.is_dir():
        inputs.append(_FETCHED)
    if args.output.suffix == ".txt":
        if args.which == "fetched":
            raise ConfigError(f"--hf writes a folder per dataset, not {args.output}", "give a folder, or --mixed")
        args.which, args.output = args.output.stem, _PROCESSED / args.output.parent
    config = DataConfig(documents=args.documents)
    results = preprocess_corpora(inputs, args.output, cleaning, config, format=args.format, which=args.which)
    if emit_json(args, results):
        return
    heads = ("documents", "empty", "lines", "short", "control", "bytes kept")
    columns = ("documents", "empty_documents", "lines", "short_lines", "control_characters", "bytes_after")
    print(f"{'corpus':<24}" + "".join(f"{head:>14}" for head in heads))
    for name, details in results.items():
        print(f"{name:<24}" + "".join(f"{details['cleaning'][column]:>14,}" for column in columns))
    print(f"wrote: {args.output} (dropped: empty documents, short lines, control characters)")


def _add_cache(actions: Any) -> None:
    parser = add_action(
        actions, "cache", _cache, "list or remove text that runs have prepared and keep for others"
    )
    about = "its folder; default: candlewick in $XDG_CACHE_HOME or ~/.cache"
    parser.add_argument("folder", nargs="?", metavar="DIR", type=Path, help=about)
    about = "remove these; what a run uses stays, and what is gone is prepared again when a run needs it"
    parser.add_argument("--remove", nargs="+", metavar="NAME", default=[], help=about)
    add_count(parser, "--unused-days", "remove what no run has opened for N days", least=0)
    parser.add_argument("--yes", action="store_true", help="remove without asking")


def _cache(args: argparse.Namespace) -> None:
    from candlewick.runs.datasets import clear_cache, find_cached

    cache: Path = args.folder or cache_home()
    folders = find_cached(cache, args.remove, args.unused_days)
    if not args.remove and args.unused_days is None:
        if not emit_json(args, {"cache": str(cache), "folders": [asdict(folder) for folder in folders]}):
            _print_cached(folders)
            print(f"{cache}: {sum(folder.bytes for folder in folders):,} bytes in {len(folders)} folders")
        return
    if folders and not args.yes:
        if args.json or not sys.stdin.isatty():
            raise ConfigError(
                f"this would remove {', '.join(f.name for f in folders)}", "give --yes to remove them"
            )
        _print_cached(folders)
        if input(f"remove {len(folders)} folders of {cache}? [y/N] ").strip().lower() not in ("y", "yes"):
            return
    removed = clear_cache(cache, folders)
    if not emit_json(args, {"cache": str(cache), "removed": removed}):
        print(f"removed: {', '.join(removed) or 'nothing'}")


def _print_cached(folders: "Sequence[CachedFolder]") -> None:
    print(f"{'name':<34}{'tokens':>18}{'bytes':>18}{'unused days':>13}{'age in days':>13}  text")
    now = time.time()
    for folder in folders:
        tokens = "-" if folder.tokens is None else f"{folder.tokens:,}"
        made = folder.used if folder.made is None else datetime.fromisoformat(folder.made).timestamp()
        unused, age = ((now - moment) / 86_400 for moment in (folder.used, made))
        columns = f"{folder.name:<34}{tokens:>18}{folder.bytes:>18,}{unused:>13.1f}{age:>13.1f}"
        print(f"{columns}  {escape_for_terminal(folder.about)}")


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
