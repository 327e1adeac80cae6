"""The flags of `candlewick orchestrate` as a table: each is a setting under another name, or says what is done.

    --hidden-size 256   ->  model.hidden_size=256          over the configuration and over --override

A flag that would change nothing is told of, one that contradicts another is an error: none is ignored. The seed's
defaults are the profile `orchestrate`; `--profile local` is small, and bounds no flag, as it did in the seed.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from candlewick.cli.arguments import absolute, tell, whole_number
from candlewick.cli.streaming import BATCH_NOTE, DATASET, stream_settings
from candlewick.errors import ConfigError

if TYPE_CHECKING:
    from candlewick.config import RunConfig

PROFILES = {"full": "orchestrate", "local": "local"}
_SEED_NOTE = "training a tokenizer counts pairs, in whatever order they come"

_Kind = dict[str, Any]
_COUNT, _NATURAL = ({"type": whole_number(least), "metavar": "N"} for least in (1, 0))
_NUMBER: _Kind = {"type": float, "metavar": "X"}
_NAME: _Kind = {"metavar": "NAME"}
_PATH: _Kind = {"type": absolute, "metavar": "PATH"}
_PATHS: _Kind = {**_PATH, "action": "append"}
_YES: _Kind = {"action": "store_const", "const": True}
_PRECISION: _Kind = {"choices": ("fp32", "fp16", "bf16", "mixed", "auto")}
_SCHEDULES = ("constant", "cosine", "linear_warmup", "cosine_with_warmup", "polynomial", "wsd")
_SCHEDULE: _Kind = {"choices": _SCHEDULES, "type": lambda word: word.replace("-", "_")}
_TABLE: dict[str, tuple[tuple[str, str | None, _Kind, str], ...]] = {  # flag, setting, kind of value, help
    "text": (
        ("--input", "data.train_shards", _PATHS, "file or folder to train on, may come again"),
        ("--validation", "data.validation_shards", _PATHS, "the same to evaluate on; default: some of it"),
        ("--stream", None, _YES, "train on a dataset of the Hub as it comes, without its text on the disk"),
        ("--dataset", None, _NAME, f"OWNER/NAME[@REVISION][/PATH] to --stream; default {DATASET}"),
        ("--split", None, _NAME, "of that dataset; default train"),
        ("--max-samples", None, _COUNT, "documents of it to read at most"),
        ("--stream-batch-size", None, _COUNT, f"changes nothing: {BATCH_NOTE}"),
    ),
    "tokenizer": (
        ("--tokenizer-json", "tokenizer.tokenizer_json", _PATH, "a finished tokenizer: file or folder"),
        ("--skip-tokenizer", None, _YES, "train no tokenizer: one must be given or be there"),
        ("--force-retrain-tokenizer", None, _YES, "train it anew, even if it is there"),
        ("--vocab-size", "tokenizer.vocab_size", _COUNT, "tokens of the vocabulary to train"),
        ("--tokenizer-max-lines", "tokenizer.max_train_lines", _COUNT, "documents to train it on at most"),
        ("--tokenizer-seed", None, _NATURAL, f"changes nothing: {_SEED_NOTE}"),
    ),
    "settings, over those of --config, --profile and --override (the seed bounded them with --profile local)": (
        ("--hidden-size", "model.hidden_size", _COUNT, "width of the model"),
        ("--intermediate-size", "model.intermediate_size", _COUNT, "width of its MLP"),
        ("--layers", "model.num_layers", _COUNT, "transformer blocks"),
        ("--heads", "model.num_attention_heads", _COUNT, "attention heads"),
        ("--seq-len", "model.max_position_embeddings", _COUNT, "tokens per row, and the longest context"),
        ("--batch-size", None, _COUNT, "rows per update, of all accumulated passes together"),
        ("--grad-accum", None, _COUNT, "passes per update: each reads --batch-size / --grad-accum rows"),
        ("--steps", "scheduler.total_steps", _COUNT, "updates; without, profile full ends after one epoch"),
        ("--learning-rate", "optimizer.learning_rate", _NUMBER, "peak learning rate"),
        ("--weight-decay", "optimizer.weight_decay", _NUMBER, "weight decay"),
        ("--warmup-steps", "scheduler.warmup_steps", _NATURAL, "updates of linear warm-up"),
        ("--schedule", "scheduler.strategy", _SCHEDULE, "of the learning rate; with - for _ too"),
        ("--checkpoint-every", "runtime.checkpoint.every_n_steps", _COUNT, "updates between checkpoints"),
        ("--max-checkpoints", "runtime.checkpoint.max_keep", _COUNT, "newest checkpoints to keep"),
        ("--evaluate-every", "runtime.evaluation.every_n_steps", _COUNT, "updates between evaluations"),
        ("--eval-batches", "runtime.evaluation.max_batches", _COUNT, "micro-batches per evaluation at most"),
        ("--log-every", "runtime.log_every_n_steps", _COUNT, "updates between lines of metrics"),
        ("--shuffle-buffer", "data.shuffle_buffer_size", _COUNT, "shuffle rows in windows of so many"),
        ("--loader-workers", "data.num_workers", _COUNT, "processes that prepare text"),
        ("--precision", "runtime.precision", _PRECISION, "of the products"),
        ("--seed", "runtime.seed", _NATURAL, "of weights, order of the data and dropout"),
        ("--tensorboard", "runtime.logging.tensorboard", _YES, "write TensorBoard files"),
    ),
    "the run, in runs/, or with --mode cloud below ORCHESTRATE_{RUNS,CACHE,TOKENIZER,TRAIN,VAL,HF_CACHE}_ROOT": (
        ("--profile", None, {"choices": tuple(PROFILES)}, "without --config: full (default), or the small local"),
        ("--run-dir", None, {"type": Path, "metavar": "DIR"}, "its folder; default: by its --experiment"),
        ("--resume", None, _YES, "there has to be a checkpoint to go on with; without this there may be one"),
        ("--mode", None, {"choices": ("local", "cloud")}, "cloud: all but the training, in shared folders"),
        ("--experiment", None, _NAME, "name of the run and of its folders; default: that of the configuration"),
        ("--train-shard-lines", None, _COUNT, "documents per shard of training text; default 1,000,000"),
        ("--validation-shard-lines", None, _COUNT, "the same of --validation; default: as many"),
        ("--reuse-shards", None, _YES, "take the shards that are there, after a check of their hashes"),
        ("--force-reshard", None, _YES, "make them anew"),
    ),
}  # fmt: skip
_NAMES = {flag: key or flag[2:].replace("-", "_") for rows in _TABLE.values() for flag, key, *_ in rows}
_ALSO = {"--seq-len": "data.sequence_length=null", "--shuffle-buffer": "data.order=window"}
_OF_A_STREAM = ("--dataset", "--split", "--max-samples", "--stream-batch-size")
_OF_SHARDS = ("--train-shard-lines", "--validation-shard-lines", "--reuse-shards", "--force-reshard")
_CONTRADICTING = (
    ("--config", "--profile"),
    ("--stream", "--input"),
    ("--reuse-shards", "--force-reshard"),
    ("--skip-tokenizer", "--force-retrain-tokenizer"),
    ("--tokenizer-json", "--force-retrain-tokenizer"),
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare all of them; those that are settings are kept under the name of the setting."""
    for title, rows in _TABLE.items():
        group = parser.add_argument_group(title)
        for flag, _, kind, text in rows:
            group.add_argument(flag, dest=_NAMES[flag], help=text, **kind)


def settings(args: argparse.Namespace) -> list[str]:
    """Return the overrides that the flags stand for, but for --batch-size and --grad-accum."""
    stream = args.dataset or DATASET, args.split or "train", args.max_samples
    overrides = stream_settings(*stream) if args.stream else []
    is_own = getattr(args, "data.train_shards") and args.profile == "local"  # which is about source code without
    if is_own and not any(given.startswith("data.documents=") for given in args.override):
        overrides += ["data.documents=line"]  # as the seed read text, and as profile full does
    for flag, key in _NAMES.items():
        if "." in key and (value := getattr(args, key)) is not None:
            overrides += [f"{key}={json.dumps(value, ensure_ascii=False)}", *filter(None, [_ALSO.get(flag)])]
    return overrides


def batch_settings(args: argparse.Namespace, config: "RunConfig") -> list[str]:
    """Return the overrides of --batch-size and --grad-accum; what is not given is as in `config`."""
    if args.batch_size is None and args.grad_accum is None:
        return []
    from candlewick.runs.resolve import rows_per_update

    before = rows_per_update(config)
    rows, passes = args.batch_size or before, args.grad_accum or before // config.data.micro_batch_size
    if rows % passes:
        raise ConfigError(f"{rows} rows (--batch-size) are not {passes} equal passes (--grad-accum)", "change one")
    return [f"data.global_batch_size={rows}", f"data.micro_batch_size={rows // passes}"]


def check(args: argparse.Namespace) -> None:
    """Raise ConfigError for flags that contradict each other; tell of those that change nothing."""

    def is_given(flag: str) -> bool:
        return getattr(args, _NAMES.get(flag, flag[2:])) is not None

    for first, second in _CONTRADICTING:
        if is_given(first) and is_given(second):
            raise ConfigError(f"{first} and {second} contradict each other", "give one of them")
    if not args.stream and (flag := next(filter(is_given, _OF_A_STREAM), None)):
        raise ConfigError(f"{flag} is about a stream", "add --stream, or leave it out")
    idle = {"--stream-batch-size": BATCH_NOTE, "--tokenizer-seed": _SEED_NOTE}
    if is_given("--tokenizer-json"):
        idle |= dict.fromkeys(("--vocab-size", "--tokenizer-max-lines"), "--tokenizer-json is a finished one")
    if args.stream or args.mode != "cloud":
        idle |= dict.fromkeys(_OF_SHARDS, "text becomes shards with --mode cloud, and without --stream")
    elif not is_given("--validation"):
        idle["--validation-shard-lines"] = "what is held out without --validation has shards as long as the others"
    for flag, reason in idle.items():
        if is_given(flag):
            tell(f"{flag} changes nothing: {reason}")
