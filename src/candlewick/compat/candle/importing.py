"""Turn a checkpoint of transformer_candle into a run to resume, or a checkpoint to start from.

    step_000000001500_global_000000001500/  ->  RUN/checkpoints/step_000001500/  RUN/config.yaml  RUN/tokenizer/
                                                `train --run-dir RUN --resume` goes on with optimizer and schedule
    with `weights_only`                     ->  OUTPUT/, a checkpoint without optimizer
                                                `train --init-from OUTPUT` starts from it

The folder may lie on the Hub, at hf://OWNER/NAME@REVISION. The position in the data is lost, because
transformer_candle shuffled in another order: the data begins at its first row.
"""

from collections.abc import Iterator
from pathlib import Path

import torch

from candlewick.artifacts.manifest import file_sha256, make_directory, replace_durable
from candlewick.checkpoint.open import STATE_VERSION
from candlewick.checkpoint.safetensors import MODEL
from candlewick.checkpoint.save import Snapshot, save, write_checkpoint
from candlewick.compat.candle.checkpoint import model_config, native_state, native_weights, open_candle
from candlewick.config import AdamWConfig, ModelConfig, RunConfig
from candlewick.config.tree import dump
from candlewick.errors import ConfigError
from candlewick.runs.import_hf import ImportResult, require_rows
from candlewick.runs.sources import open_tokenizer
from candlewick.runs.start import find_model
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.train.state import TrainState, numerics_fingerprint, random_state

_FILES = (
    *("model.safetensors", "optimizer.json", "scheduler.json", "scaler.json", "manifest.json"),
    *("training.yaml", "training.toml", "tokenizer.json", "vocab.json", "merges.txt", "special_tokens.txt"),
)


def fetch_candle(source: str) -> Path:
    """Return the folder of a checkpoint; from the Hub, fetch the files of a checkpoint only."""
    return find_model(source, [f"{folder}{name}" for name in _FILES for folder in ("", "*/", "*/*/")])[1]


def find_config(folder: Path) -> Path | None:
    """Return the configuration that lies beside a checkpoint."""
    paths = (candidate / f"training.{kind}" for candidate in _search_folders(folder) for kind in ("yaml", "toml"))
    return next((path for path in paths if path.is_file()), None)


def find_tokenizer(config: RunConfig | None, folder: Path, path: Path | None) -> Tokenizer:
    """Return the tokenizer at `path`, else the configuration's, else one beside the folder. Raises ConfigError."""
    if path is not None:
        return Tokenizer.load(path)
    if config is not None and (configured := open_tokenizer(config.tokenizer)) is not None:
        return configured
    for candidate in (candidate / name for candidate in _search_folders(folder) for name in ("", "tokenizer")):
        if any((candidate / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            return Tokenizer.load(candidate)
    raise ConfigError(f"no tokenizer is named, and none lies in {folder}", "give --tokenizer PATH")


def _search_folders(folder: Path) -> Iterator[Path]:
    """Yield a folder, its parent if it is a step, and the folder of the run."""
    yield folder
    if folder.name.startswith("step_"):
        yield (folder := folder.parent)
    if folder.name in ("checkpoints", "best"):
        yield folder.parent


def import_candle(
    source: Path,
    config: RunConfig | None,
    tokenizer: Tokenizer,
    output: Path,
    *,
    heads: int | None,
    weights_only: bool,
) -> ImportResult:
    """Write a run from a checkpoint, or with `weights_only` a checkpoint without optimizer.

    Raises CheckpointError for an unusable checkpoint, ConfigError without AdamW, or if `output` holds a run.
    """
    checkpoint = open_candle(source, weights_only=weights_only)
    model = model_config(checkpoint, None if config is None else config.model, heads)
    heads, rows = model.num_attention_heads, checkpoint.shape["vocab_size"]
    require_rows(tokenizer, rows, checkpoint.folder)
    inputs = {"tokenizer": tokenizer.sha256, "parent": file_sha256(checkpoint.folder / MODEL)}
    weights = native_weights(checkpoint, heads)
    count = sum(tensor.numel() for tensor in weights.values())
    if weights_only:
        write_checkpoint(output, Snapshot(0, weights, None, None, model, rows, tokenizer, inputs))
        return ImportResult(output, model, rows, count, None)
    config = _run_config(config or RunConfig(), model, output)
    optimizer, masters = native_state(checkpoint, heads)
    state = {
        "version": STATE_VERSION,
        "counters": TrainState(step=checkpoint.step).to_json(),
        "loader": {},  # the data begins anew
        "random": random_state(torch.device("cpu")),
        "config": config.model_dump(mode="json"),
        **numerics_fingerprint(torch.device("cpu")),
    }
    make_directory(output / "tokenizer")
    tokenizer.write(output / "tokenizer")
    replace_durable(output / "config.yaml", dump(config, "yaml").encode())
    snapshot = Snapshot(checkpoint.step, weights | masters, optimizer, state, model, rows, tokenizer, inputs)
    save(output / "checkpoints", snapshot)
    return ImportResult(output, model, rows, count, checkpoint.step)


def _run_config(config: RunConfig, model: ModelConfig, output: Path) -> RunConfig:
    if type(config.optimizer) is not AdamWConfig:
        raise ConfigError(
            f"the checkpoint has AdamW's state, the settings say optimizer.algorithm={config.optimizer.algorithm}",
            "set optimizer.algorithm to adam_w, or give --weights-only",
        )
    if (output / "checkpoints").exists():
        raise ConfigError(f"{output} holds a run already", "choose another --output")
    best, tensorboard = config.runtime.evaluation.best, config.runtime.logging.tensorboard
    tokenizer = {"tokenizer_json": output.absolute() / "tokenizer", "vocab": None, "merges": None}
    runtime = {  # paths into the folder of the old run go
        "checkpoint": {"directory": None, "init_from": None},
        "evaluation": {"best": best and best.replaced(directory=None)},
        "logging": {"tensorboard": True if isinstance(tensorboard, Path) else tensorboard},
    }
    try:
        return config.replaced(model=model, tokenizer=tokenizer | {"special_tokens": None}, runtime=runtime)
    except ConfigError as error:
        raise ConfigError(f"the settings do not fit the model: {error.problem}", error.fix) from None
