"""Checkpoints from elsewhere become ours: of the seed with all that training needs, of Hugging Face their weights.

    a step_* folder of the seed  ->  RUN/checkpoints/step_000001500/  RUN/config.yaml  RUN/tokenizer/
                                     `train --run-dir RUN --resume` goes on with optimizer, step and schedule
    a Llama or Qwen3 folder,     ->  OUTPUT/, a checkpoint without optimizer
    or weights of the seed           `train --init-from OUTPUT` starts from it

Both may lie on the Hub, at an address hf://OWNER/NAME@REVISION. The seed's place in the data cannot be carried
over, because its order was another: the data begins at its first row.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from candlewick.artifacts.manifest import file_sha256, make_directory, replace_durable
from candlewick.checkpoint.open import STATE_VERSION, Checkpoint
from candlewick.checkpoint.safetensors import INDEX, MODEL
from candlewick.checkpoint.save import Snapshot, save, write
from candlewick.compat.candle.checkpoint import model_config, native_state, native_weights, open_candle
from candlewick.config import AdamWConfig, ModelConfig, RunConfig
from candlewick.config.tree import dump_yaml
from candlewick.errors import CheckpointError, ConfigError
from candlewick.hub import SCHEME, fetch_model
from candlewick.runs.start import MODEL_FILES
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.train.state import TrainState, machine, random_state

_CANDLE_FILES = (
    *("model.safetensors", "optimizer.json", "scheduler.json", "scaler.json", "manifest.json"),
    *("training.yaml", "training.toml", "tokenizer.json", "vocab.json", "merges.txt", "special_tokens.txt"),
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Imported:
    """What was made of a checkpoint."""

    output: Path
    model: ModelConfig
    vocab_size: int
    parameters: int
    step: int | None
    """Updates that it has behind it; None: weights alone."""


def fetch_candle(source: str) -> Path:
    """Return the folder of a seed checkpoint; one on the Hub is fetched, these files and no others."""
    if not source.startswith(SCHEME):
        return Path(source)
    return fetch_model(source, [f"{folder}{name}" for name in _CANDLE_FILES for folder in ("", "*/", "*/*/")])


def import_candle(
    source: Path,
    config: RunConfig | None,
    tokenizer: Tokenizer,
    output: Path,
    *,
    heads: int | None,
    weights_only: bool,
) -> Imported:
    """Make a run of a checkpoint of the seed, or with `weights_only` a checkpoint without optimizer.

    Raises CheckpointError for a checkpoint that cannot be used, ConfigError for a configuration without AdamW, and
    if `output` holds a run.
    """
    checkpoint = open_candle(source, weights_only=weights_only)
    model = model_config(checkpoint, None if config is None else config.model, heads)
    heads, rows = model.num_attention_heads, checkpoint.shape["vocab_size"]
    _require_rows(tokenizer, rows, checkpoint.folder)
    inputs = {"tokenizer": tokenizer.sha256, "parent": file_sha256(checkpoint.folder / MODEL)}
    weights = native_weights(checkpoint, heads)
    count = sum(tensor.numel() for tensor in weights.values())
    if weights_only:
        write(output, Snapshot(0, weights, None, None, model, rows, tokenizer, inputs))
        return Imported(output, model, rows, count, None)
    config = _config_of_run(config or RunConfig(), model, output)
    optimizer, masters = native_state(checkpoint, heads)
    state = {
        "version": STATE_VERSION,
        "counters": TrainState(step=checkpoint.step).to_json(),
        "loader": {},  # the data begins anew
        "random": random_state(torch.device("cpu")),
        "config": config.model_dump(mode="json"),
        **machine(torch.device("cpu")),
    }
    make_directory(output / "tokenizer")
    tokenizer.write(output / "tokenizer")
    replace_durable(output / "config.yaml", dump_yaml(config).encode())
    snapshot = Snapshot(checkpoint.step, weights | masters, optimizer, state, model, rows, tokenizer, inputs)
    save(output / "checkpoints", snapshot, max_keep=1)
    return Imported(output, model, rows, count, checkpoint.step)


def _config_of_run(config: RunConfig, model: ModelConfig, output: Path) -> RunConfig:
    if type(config.optimizer) is not AdamWConfig:
        raise ConfigError(
            f"the checkpoint has AdamW's state, the settings say optimizer.algorithm={config.optimizer.algorithm}",
            "set optimizer.algorithm to adam_w, or give --weights-only",
        )
    if (output / "checkpoints").exists():
        raise ConfigError(f"{output} holds a run already", "choose another --output")
    # nothing of the old run's folder is named any more
    given = {
        "tokenizer_json": output.absolute() / "tokenizer",
        "vocab": None,
        "merges": None,
        "special_tokens": None,
    }
    tokenizer = config.tokenizer.model_copy(update=given)
    old = config.runtime
    best = old.evaluation.best and old.evaluation.best.model_copy(update={"directory": None})
    runtime = old.model_copy(
        update={
            "checkpoint": old.checkpoint.model_copy(update={"directory": None, "init_from": None}),
            "evaluation": old.evaluation.model_copy(update={"best": best}),
            "logging": old.logging.model_copy(update={"tensorboard": bool(old.logging.tensorboard)}),
        }
    )
    update = {"model": model, "tokenizer": tokenizer, "runtime": runtime}
    try:
        return RunConfig.model_validate(config.model_copy(update=update).model_dump())
    except ValidationError as error:
        raise ConfigError(f"the settings do not fit the model: {error.errors()[0]['msg']}") from None


def _require_rows(tokenizer: Tokenizer, rows: int, folder: Path) -> None:
    if tokenizer.vocab_size > rows:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model of {folder} has {rows} rows",
            "give the tokenizer that the model was trained with",
        )


def import_hugging_face(source: str, output: Path, tokenizer: Tokenizer | None = None) -> Imported:
    """Make a checkpoint of the weights of a Hugging Face folder or a model on the Hub. Raises CheckpointError."""
    folder = fetch_model(source, MODEL_FILES) if source.startswith(SCHEME) else Path(source)
    checkpoint = Checkpoint.open(folder, need={"weights"})
    (model, rows), tensors = checkpoint.shape, checkpoint.weights()
    tokenizer = tokenizer or checkpoint.tokenizer
    _require_rows(tokenizer, rows, folder)
    parent = file_sha256(folder / (MODEL if (folder / MODEL).is_file() else INDEX))
    weights = {name: tensor.float() for name, tensor in tensors.items()}
    inputs = {"tokenizer": tokenizer.sha256, "parent": parent}
    write(output, Snapshot(0, weights, None, None, model, rows, tokenizer, inputs))
    return Imported(output, model, rows, sum(tensor.numel() for tensor in weights.values()), None)
