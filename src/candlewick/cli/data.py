"""`candlewick data`: text into shards of text and of tokens; check them, look into them."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from candlewick.cli import data_fetch, data_preprocess, data_shard
from candlewick.cli.arguments import (
    add_config,
    add_json,
    add_logging,
    add_output,
    print_json,
    setup_logging,
    shown,
    whole_number,
)
from candlewick.errors import ConfigError

if TYPE_CHECKING:
    from candlewick.artifacts.manifest import Manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    prepare = actions.add_parser("prepare", help="encode text into token shards")
    prepare.add_argument(
        "sources", nargs="*", metavar="SOURCE", help="files, folders or stdlib://; default data.train_shards"
    )
    add_output(prepare, "folder to write the token dataset to")
    prepare.add_argument(
        "--tokenizer", metavar="DIR", type=Path, help="folder of the tokenizer; default tokenizer.tokenizer_json"
    )
    prepare.add_argument("--workers", metavar="N", type=whole_number(1), help="processes; default one per core")
    add_config(prepare)
    add_logging(prepare)
    add_json(prepare)
    prepare.set_defaults(action_run=_prepare)

    for action in (data_shard, data_fetch, data_preprocess):
        action.add_arguments(actions)

    verify = actions.add_parser("verify", help="read every byte of shards, of tokens or of text, and check it")
    _add_dataset(verify)
    verify.set_defaults(action_run=_verify)

    inspect = actions.add_parser("inspect", help="what is in a token dataset")
    _add_dataset(inspect)
    inspect.add_argument(
        "--decode", metavar="N", type=whole_number(0), default=0, help="also show the first N tokens as text"
    )
    inspect.set_defaults(action_run=_inspect)


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DIR", type=Path, help="folder of a token dataset")
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Run the chosen action."""
    args.action_run(args)


def _prepare(args: argparse.Namespace) -> None:
    from candlewick.config.load import load_config
    from candlewick.data.tokens.prepare import EncodeJob, prepare
    from candlewick.terminal import bytes_progress
    from candlewick.tokenizer.bpe import Tokenizer, open_tokenizer

    config = load_config(args.config, args.override)
    setup_logging(args, config)
    if config.data.mixture and not args.sources:
        raise ConfigError("a mixture is prepared one source at a time", "name one; `train` prepares all of them")
    data = config.data.replaced(
        train_shards=tuple(args.sources) or config.data.train_shards,
        mixture=(),
        num_workers=args.workers or config.data.num_workers,
    )
    tokenizer = Tokenizer.load(args.tokenizer) if args.tokenizer else open_tokenizer(config.tokenizer)
    if tokenizer is None:
        raise ConfigError("no tokenizer is named", "give --tokenizer DIR; `candlewick tokenizer train` makes one")
    with bytes_progress("data") as progress:
        manifest, reused = prepare(EncodeJob.from_config(data, tokenizer), args.output, progress=progress)
    if args.json:
        print_json({"output": str(args.output), "reused": reused, **_summary(manifest)})
        return
    print(f"{'up to date' if reused else 'wrote'}: {args.output}")
    _print_splits(manifest)


def _verify(args: argparse.Namespace) -> None:
    from candlewick.data.shards.write import verify_text
    from candlewick.data.tokens.dataset import TokenDataset, is_token_dataset, verify_shards

    if not is_token_dataset(args.dataset):
        count, size = verify_text(args.dataset)
        if args.json:
            print_json({"dataset": str(args.dataset), "ok": True, "files": count, "bytes": size})
        else:
            print(f"ok: {count} files, {size:,} bytes")
        return
    dataset = TokenDataset.open(args.dataset, rehash=True)
    verify_shards(dataset)
    manifest = dataset.manifest
    if args.json:
        print_json({"dataset": str(args.dataset), "ok": True, **_summary(manifest)})
        return
    size = sum(entry.bytes for entry in manifest.files)
    print(f"ok: {len(manifest.files)} files, {size:,} bytes, id {manifest.id}")


def _inspect(args: argparse.Namespace) -> None:
    from candlewick.data.tokens.dataset import TokenDataset
    from candlewick.tokenizer.bpe import Tokenizer

    dataset = TokenDataset.open(args.dataset)
    tokenizer = Tokenizer.load(args.dataset / "tokenizer")
    split = dataset.split("train" if dataset.manifest.details["splits"]["train"]["tokens"] else "validation")
    ids = split.window(0, min(args.decode, split.num_tokens)).tolist()
    text = tokenizer.decode(ids, skip_special=False)
    if args.json:
        print_json({**_summary(dataset.manifest), **({"ids": ids, "text": text} if ids else {})})
        return
    details = dataset.manifest.details
    print(f"id          {dataset.id}")
    print(f"vocabulary  {dataset.vocab_size:,} tokens, tokenizer {dataset.tokenizer_sha256[:12]}")
    print(f"validation  held out by: {details['holdout']}")
    print(f"bad UTF-8   {details['bad_utf8']['sequences']:,} sequences")
    for what, count in details.get("left_out", {}).items():
        print(f"{what:<12}{count:,} left out")
    for example in details["bad_utf8"]["examples"]:
        print(f"            {shown(example)}")
    _print_splits(dataset.manifest)
    if ids:
        sys.stdout.write(f"\n{shown(text)}\n")


def _summary(manifest: "Manifest") -> dict[str, Any]:
    return {"id": manifest.id, "details": manifest.details, "config": manifest.config, "inputs": manifest.inputs}


def _print_splits(manifest: "Manifest") -> None:
    print(f"{'split':<12}{'tokens':>16}{'documents':>14}{'bytes of text':>18}{'bytes/token':>14}")
    for name, counts in manifest.details["splits"].items():
        ratio = counts["text_bytes"] / max(counts["tokens"], 1)
        print(
            f"{name:<12}{counts['tokens']:>16,}{counts['documents']:>14,}{counts['text_bytes']:>18,}{ratio:>14.3f}"
        )
