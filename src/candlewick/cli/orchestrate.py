"""`candlewick orchestrate`: run all stages from text to samples, and skip those that are up to date.

    --hidden-size 256   ->  model.hidden_size=256          over the configuration and over --override

A table of flags: each sets a key, or chooses what is done. Type, choices and help of a setting come from its
schema. No flag is ignored: one without an effect prints a note, one that contradicts another is an error. The
profile `orchestrate` has the defaults of transformer_candle; `--profile local` is small, and bounds no flag, as it
did there. `--mode cloud` runs all but the training, in folders that environment variables name.
"""

import argparse
import json
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from candlewick.cli.arguments import (
    SWITCH,
    add_config,
    add_reporting,
    add_sources,
    argument_type,
    load_run_config,
    load_with_dialect,
    setting_schemas,
    whole_number,
)
from candlewick.cli.environment import CLOUD_FOLDERS, cloud_roots, shown_program, use_hub
from candlewick.cli.output import emit_json, escape_for_terminal, print_note, print_stage
from candlewick.errors import ConfigError

if TYPE_CHECKING:
    from candlewick.config import RunConfig
    from candlewick.runs.resolve import Request

_PROFILES = {"full": "orchestrate", "local": "local"}
BATCH_NOTE = "the text comes in whole files, which are read row by row"
_DATASET = "HuggingFaceFW/fineweb"
_SEED_NOTE = "training a tokenizer counts pairs, in any order"

_COUNT: dict[str, Any] = {"type": whole_number(1), "metavar": "N"}
_NAME = {"metavar": "NAME"}
_CLOUD = """cloud: do all but the training, in shared folders below /workspace, or where
ORCHESTRATE_{RUNS,CACHE,TOKENIZER,TRAIN,VAL,HF_CACHE}_ROOT say"""
_TABLE: dict[str, dict[str, str | tuple[dict[str, Any], str]]] = {  # flag: its setting, or (kind of value, help)
    "text": {
        "--input": "data.train_shards",
        "--validation": "data.validation_shards",
        "--stream": (SWITCH, "read the text from a dataset on the Hub, file by file, without keeping it on disk"),
        "--dataset": (_NAME, f"dataset for --stream, OWNER/NAME[@REVISION][/PATH]; default {_DATASET}"),
        "--split": (_NAME, "split of the dataset; default train"),
        "--max-samples": (_COUNT, "maximum number of documents of the dataset"),
        "--stream-batch-size": (_COUNT, f"has no effect: {BATCH_NOTE}"),
    },
    "tokenizer": {
        "--tokenizer-json": "tokenizer.tokenizer_json",
        "--skip-tokenizer": (SWITCH, "train no tokenizer; requires --tokenizer-json or an existing one"),
        "--force-retrain-tokenizer": (SWITCH, "train a tokenizer even if there is one"),
        "--vocab-size": "tokenizer.vocab_size",
        "--tokenizer-max-lines": "tokenizer.max_train_lines",
        "--tokenizer-seed": ({**_COUNT, "type": whole_number(0)}, f"has no effect: {_SEED_NOTE}"),
    },
    "settings (they take precedence over --config, --profile and --override)": {
        "--hidden-size": "model.hidden_size",
        "--intermediate-size": "model.intermediate_size",
        "--layers": "model.num_layers",
        "--heads": "model.num_attention_heads",
        "--seq-len": "model.max_position_embeddings",
        "--batch-size": (_COUNT, "rows per update, over all accumulated passes"),
        "--grad-accum": (_COUNT, "passes per update, each of --batch-size / --grad-accum rows"),
        "--steps": "scheduler.total_steps",
        "--learning-rate": "optimizer.learning_rate",
        "--weight-decay": "optimizer.weight_decay",
        "--warmup-steps": "scheduler.warmup_steps",
        "--schedule": "scheduler.strategy",
        "--checkpoint-every": "runtime.checkpoint.every_n_steps",
        "--max-checkpoints": "runtime.checkpoint.max_keep",
        "--evaluate-every": "runtime.evaluation.every_n_steps",
        "--eval-batches": (_COUNT, "maximum number of validation batches, each of --batch-size rows"),
        "--log-every": "runtime.log_every_n_steps",
        "--shuffle-buffer": "data.shuffle_buffer_size",
        "--loader-workers": "data.num_workers",
        "--precision": "runtime.precision",
        "--seed": "runtime.seed",
        "--tensorboard": "runtime.logging.tensorboard",
    },
    "run": {
        "--profile": ({"choices": tuple(_PROFILES)}, "profile without --config: full (default), or a small one"),
        "--run-dir": ({"type": Path, "metavar": "DIR"}, "folder of the run; default: runs/EXPERIMENT"),
        "--resume": (
            SWITCH,
            "with --config, require a checkpoint to resume; else a run is resumed if there is one",
        ),
        "--mode": ({"choices": ("local", "cloud")}, _CLOUD),
        "--experiment": (_NAME, "name of the run and its folders; default: the name of the configuration"),
        "--train-shard-lines": (_COUNT, "documents per shard of training text; default 1,000,000"),
        "--validation-shard-lines": (_COUNT, "documents per shard of --validation; default: as for training"),
        "--reuse-shards": (SWITCH, "use existing shards after a check of their hashes"),
        "--force-reshard": (SWITCH, "replace existing shards"),
    },
}
_SETTINGS = {flag: key for rows in _TABLE.values() for flag, key in rows.items() if isinstance(key, str)}
_IMPLIED = {"--seq-len": ["data.sequence_length=null"], "--shuffle-buffer": ["data.order=window"]}
_STREAM_FLAGS = ("--dataset", "--split", "--max-samples", "--stream-batch-size")
_SHARD_FLAGS = ("--train-shard-lines", "--validation-shard-lines", "--reuse-shards", "--force-reshard")
_CONFLICTS = (
    ("--config", "--profile"),
    ("--stream", "--input"),
    ("--reuse-shards", "--force-reshard"),
    ("--skip-tokenizer", "--force-retrain-tokenizer"),
    ("--tokenizer-json", "--force-retrain-tokenizer"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments. The value of a flag that sets a key is stored under that key."""
    add_sources(parser, "the same as --input for each")
    add_config(parser)
    schemas = setting_schemas()
    for title, rows in _TABLE.items():
        group = parser.add_argument_group(title)
        for flag, row in rows.items():
            if isinstance(row, str):
                about = f"{row}: {schemas[row]['description']}".replace("%", "%%")
                group.add_argument(flag, dest=row, help=about, **argument_type(schemas[row]))
            else:
                group.add_argument(flag, help=row[1], **row[0])
    add_reporting(parser)


def stream_overrides(dataset: str, split: str, max_samples: int | None) -> list[str]:
    """Return the overrides that make a run read a dataset of the Hub as its text."""
    uri = dataset if dataset.startswith("hf://") else f"hf://datasets/{dataset}"
    values = {"data.train_shards": [uri], "data.hub_split": split, "data.max_documents": max_samples}
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]


def flag_overrides(args: argparse.Namespace) -> list[str]:
    """Return the overrides that the flags stand for, but for --batch-size and --grad-accum."""
    stream = args.dataset or _DATASET, args.split or "train", args.max_samples
    overrides = stream_overrides(*stream) if args.stream else []
    # without --input, the profile `local` reads source code, a file as one document
    is_local_text = (args.sources or getattr(args, "data.train_shards")) and args.profile == "local"
    if is_local_text and not any(override.startswith("data.documents=") for override in args.override):
        overrides += ["data.documents=line"]  # as transformer_candle read text, and as profile full does
    for flag, key in _SETTINGS.items():
        if (value := getattr(args, key)) is not None:
            overrides += [f"{key}={json.dumps(value, ensure_ascii=False)}", *_IMPLIED.get(flag, ())]
    return overrides


def _folder_overrides(args: argparse.Namespace, roots: dict[str, Path], name: str) -> list[str]:
    """Return overrides that put the folders of this experiment in the place of a profile's below /workspace."""
    config, own = load_with_dialect(args.config, args.override, lambda _: None)[0], Path(args.config).stem
    named = {
        "TRAIN": ("data.train_shards", config.data.train_shards),
        "VAL": ("data.validation_shards", config.data.validation_shards),
        "TOKENIZER": ("tokenizer.tokenizer_json", (str(config.tokenizer.tokenizer_json),)),
    }
    moved = {key: str(roots[r] / name) for r, (key, v) in named.items() if v == (f"{CLOUD_FOLDERS[r]}/{own}",)}
    lists = {key: [] if args.stream else [path] for key, path in moved.items() if key.startswith("data.")}
    return [f"{key}={json.dumps(lists.get(key, path))}" for key, path in moved.items()]


def _batch_overrides(args: argparse.Namespace, overrides: list[str]) -> list[str]:
    """Return the overrides of --batch-size and --grad-accum; the other of them is as in the configuration."""
    if args.batch_size is None and args.grad_accum is None:
        return []
    from candlewick.runs.resolve import rows_per_update

    config = load_with_dialect(args.config, [*args.override, *overrides], lambda _: None)[0]
    before = rows_per_update(config)
    rows, passes = args.batch_size or before, args.grad_accum or before // config.data.micro_batch_size
    if rows % passes:
        raise ConfigError(f"{rows} rows (--batch-size) are not {passes} equal passes (--grad-accum)", "change one")
    return [f"data.global_batch_size={rows}", f"data.micro_batch_size={rows // passes}"]


def _evaluation_overrides(args: argparse.Namespace, overrides: list[str]) -> list[str]:
    """Return the override of --eval-batches, which counts batches of all rows of an update."""
    if args.eval_batches is None:
        return []
    from candlewick.runs.resolve import rows_per_update

    config = load_with_dialect(args.config, [*args.override, *overrides], lambda _: None)[0]
    tokens = args.eval_batches * rows_per_update(config) * config.sequence_length
    return [f"runtime.evaluation.max_tokens={tokens}"]


def _check_flags(args: argparse.Namespace) -> None:
    """Raise ConfigError for flags that contradict each other; print a note for those without an effect."""

    def is_given(flag: str) -> bool:
        return getattr(args, _SETTINGS.get(flag, flag[2:].replace("-", "_"))) is not None

    if args.sources and (is_given("--input") or args.stream):
        raise ConfigError("TEXT and --input or --stream name the text twice", "give one of them")
    for first, second in _CONFLICTS:
        if is_given(first) and is_given(second):
            raise ConfigError(f"{first} and {second} contradict each other", "give one of them")
    if not args.stream and (flag := next(filter(is_given, _STREAM_FLAGS), None)):
        raise ConfigError(f"{flag} needs --stream", "add --stream, or leave it out")
    unused = {"--stream-batch-size": BATCH_NOTE, "--tokenizer-seed": _SEED_NOTE}
    if is_given("--tokenizer-json"):
        unused |= dict.fromkeys(("--vocab-size", "--tokenizer-max-lines"), "--tokenizer-json is a finished one")
    if args.stream or args.mode != "cloud":
        unused |= dict.fromkeys(_SHARD_FLAGS, "text becomes shards with --mode cloud, and without --stream")
    elif not is_given("--validation"):
        unused["--validation-shard-lines"] = "without --validation it is --train-shard-lines"
    for flag, reason in unused.items():
        if is_given(flag):
            print_note(f"{flag} changes nothing: {reason}")


def run(args: argparse.Namespace) -> None:
    """Run every stage that is not up to date."""
    from candlewick.cli import candle

    _check_flags(args)
    # transformer_candle's command line and files resume a run if there is one
    requires_run = args.resume and args.config and not candle.is_candle(args.config)
    args.config = args.config or _PROFILES[args.profile or "full"]
    name = args.experiment or Path(args.config).stem
    roots = cloud_roots() if args.mode == "cloud" else {}
    if roots:
        use_hub(home=roots["HF_CACHE"])

    from candlewick.runs.resolve import Request
    from candlewick.runs.sharding import Sharding

    overrides = [*(_folder_overrides(args, roots, name) if roots else ()), *flag_overrides(args)]
    overrides += _batch_overrides(args, overrides)
    overrides += _evaluation_overrides(args, overrides)
    config = load_run_config(args, overrides, roots.get("CACHE"))
    sharding = None
    if roots and not args.stream:
        existing = "reuse" if args.reuse_shards else "remake" if args.force_reshard else "refuse"
        folders = {"train": roots["TRAIN"] / name, "validation": roots["VAL"] / name}
        lines = args.train_shard_lines or 1_000_000
        documents = {"train": lines, "validation": args.validation_shard_lines or lines}
        sharding = Sharding(folders, documents, existing)
    request = Request(
        resume="required" if requires_run else "if_available",
        keeps_data=True,
        skip_tokenizer=bool(args.skip_tokenizer),
        retrain_tokenizer=bool(args.force_retrain_tokenizer),
        shared_tokenizer=roots["TOKENIZER"] / name if roots else None,
        sharding=sharding,
        prepare_only=bool(roots),
    )
    orchestrate_and_print(args, config, args.run_dir or roots.get("RUNS", Path("runs")) / name, request)


def orchestrate_and_print(
    args: argparse.Namespace, config: "RunConfig", run_dir: Path, request: "Request | None" = None
) -> None:
    """Run or prepare a run, and print samples of the model or the command that trains it."""
    from candlewick.runs.orchestrate import orchestrate

    notify = partial(print_stage, stream=sys.stderr if args.json else sys.stdout)
    result = orchestrate(config, run_dir, notify, request)
    if emit_json(args, result):
        return
    for sample in result.get("samples", ()):
        print(f"\nthe model writes:\n{escape_for_terminal(sample['prompt'] + sample['text'])}")
    if "command" in result:
        print(f"next: {shown_program()} {shlex.join(result['command'][1:])}")
