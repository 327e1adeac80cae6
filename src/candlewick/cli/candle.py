"""What the command line knows of transformer_candle. No other file outside of `compat.candle` calls that package.

Both can be deleted in one commit, with the lines that call this file: tests/test_deletable.py does so in a copy.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from candlewick.cli.arguments import add_config, add_count, add_output, as_sentence, setup_logging
from candlewick.cli.orchestrate import BATCH_NOTE, stream_overrides
from candlewick.cli.output import print_note
from candlewick.errors import CandlewickError, CheckpointError, ConfigError

if TYPE_CHECKING:
    from candlewick.config import RunConfig
    from candlewick.config.load import Dialect
    from candlewick.runs.import_hf import ImportResult


def dialect() -> "Dialect":
    """Return what translates the settings of a file, if they are transformer_candle's, and of overrides."""
    from candlewick.compat.candle.settings import CandleDialect

    return CandleDialect()


def explain(error: CandlewickError) -> CandlewickError:
    """Return an error that says how to import a checkpoint, if it is transformer_candle's; else the same error."""
    if not isinstance(error, CheckpointError) or error.path is None:
        return error
    from candlewick.compat.candle.checkpoint import holds_candle

    if not holds_candle(error.path):
        return error
    return CheckpointError(
        f"{error.path} holds a checkpoint of transformer_candle, not one of candlewick",
        f"candlewick import candle {error.path} --config training.yaml --output RUN makes it one",
    )


def is_candle(source: str | None) -> bool:
    """Return whether a configuration is a file of transformer_candle; a profile and None are not."""
    return source is not None and _load_candle(source, []) is not None


def _load_candle(source: str, overrides: list[str]) -> "RunConfig | None":
    """Load a configuration without notes; None if it is none of transformer_candle."""
    from candlewick.compat.candle.settings import CandleDialect
    from candlewick.config.load import load_config

    dialect = CandleDialect()
    config = load_config(source, overrides, lambda _: None, dialect)
    return config if dialect.reads_candle else None


def read_as_candle(args: argparse.Namespace) -> None:
    """Let `train` do with a file of transformer_candle what its `train` did.

    The text is that of a streaming_config.json beside it; the run folder is that of its checkpoints; `--resume`
    starts a run if there is none. Raises CheckpointError if there is one of transformer_candle to resume.
    """
    args.override = [*streaming_overrides(args.config or ""), *args.override]
    if args.config is None or (config := _load_candle(args.config, args.override)) is None:
        return
    from candlewick.compat.candle.checkpoint import require_imported
    from candlewick.compat.candle.paths import find_run

    args.run_dir = args.run_dir or find_run(config)
    if args.resume is True:
        args.resume = "auto"
        require_imported(config.runtime.checkpoint.directory or (args.run_dir or Path()) / "checkpoints")


def streaming_overrides(config: str) -> list[str]:
    """Return the overrides of a streaming_config.json beside a configuration, and print how it was read."""
    from candlewick.compat.candle.settings import find_streaming_config

    if (streaming := find_streaming_config(Path(config))) is None:
        return []
    path, stream = streaming
    overrides = stream_overrides(str(stream["dataset"]), stream.get("split", "train"), stream.get("max_samples"))
    note = f"; stream_batch_size changes nothing: {BATCH_NOTE}" if "stream_batch_size" in stream else ""
    print_note(f"{path} is read: {', '.join(overrides)}; a part of that text is held out for validation{note}")
    return [*overrides, "data.validation_shards=[]"]


def train_tokenizer(args: argparse.Namespace) -> tuple[Any, bool] | None:
    """Make the tokenizer of a tokenizer configuration; None if --config is none of transformer_candle."""
    from candlewick.compat.candle.tokenizer import read_tokenizer_config, train_candle_tokenizer

    config = read_tokenizer_config(args.config)
    if config is None:
        return None
    if args.sources or args.override:
        raise ConfigError(f"{args.config} names the text to train on itself", "change training.inputs in it")
    setup_logging(args)
    args.output = args.output or config.artifacts.dir
    return train_candle_tokenizer(config, args.output)


def open_tokenizer(source: str | None) -> Any:
    """Open the tokenizer of a tokenizer configuration; None if `source` is none of transformer_candle."""
    from candlewick.compat.candle.tokenizer import open_candle_tokenizer, read_tokenizer_config

    config = read_tokenizer_config(source)
    return None if config is None else open_candle_tokenizer(config)


def add_import(kinds: Any) -> None:
    """Declare `candlewick import candle`."""
    about = "import a checkpoint of transformer_candle, to resume or to start from"
    parser: argparse.ArgumentParser = kinds.add_parser("candle", help=about, description=as_sentence(about))
    about = "a step_* folder, a folder of them (the newest valid one is taken), or hf://OWNER/NAME@REVISION"
    parser.add_argument("source", metavar="DIR", help=about)
    add_config(parser)
    add_count(parser, "--heads", "number of attention heads, if there is no configuration")
    parser.add_argument("--weights-only", action="store_true", help="import model.safetensors, but no optimizer")
    add_output(parser, "folder of the run to write; with --weights-only, of the checkpoint")
    parser.set_defaults(kind_run=_import)


def _import(args: argparse.Namespace) -> "ImportResult":
    from candlewick.compat.candle.importing import fetch_candle, find_config, find_tokenizer, import_candle
    from candlewick.compat.candle.settings import CandleDialect
    from candlewick.config.load import load_config

    folder = fetch_candle(args.source)
    source = args.config or find_config(folder)
    if source is None and not args.weights_only:
        raise ConfigError(
            f"{folder} contains no training configuration",
            "give --config training.yaml, or --weights-only with --heads N",
        )
    dialect = CandleDialect(is_candle=True)
    config = None if source is None else load_config(source, args.override, print_note, dialect)
    tokenizer = find_tokenizer(config, folder, args.tokenizer)
    return import_candle(folder, config, tokenizer, args.output, heads=args.heads, weights_only=args.weights_only)
