"""Evaluate a checkpoint that lies on the disk, on any text or token dataset."""

from pathlib import Path

import torch

from candlewick.artifacts import canonical_json
from candlewick.checkpoint.layout import STATE, resolve
from candlewick.checkpoint.load import load_for_inference, read_state
from candlewick.config import DataConfig, RunConfig, TokenizerConfig
from candlewick.errors import CheckpointError
from candlewick.pipeline.training import open_data
from candlewick.train.evaluate import evaluate
from candlewick.train.objective import NextTokenLoss


def evaluate_checkpoint(
    path: Path, data: DataConfig, *, device: torch.device, max_batches: int | None
) -> dict[str, float]:
    """Return the metrics of a checkpoint on the validation side of `data`; if it names none: of its run's data.

    Raises what opening them raises.
    """
    folder = resolve(path)
    model, tokenizer = load_for_inference(folder, device)
    # tokens of another tokenizer than the model's are refused
    update: dict[str, object] = {"tokenizer": TokenizerConfig(tokenizer_json=folder)}
    config = _saved_config(folder)
    if data.train_shards:
        names = ("train_shards", "validation_shards", "cache_dir")
        update["data"] = config.data.model_copy(update={name: getattr(data, name) for name in names})
    elif not config.data.train_shards:
        raise CheckpointError(f"{folder} does not say what it was trained on", "name the text to evaluate on")
    config = config.model_copy(update={**update, "model": model.config})
    split = open_data(config).validation
    return evaluate(
        NextTokenLoss(model, num_tokens=tokenizer.vocab_size),
        split,
        sequence_length=config.sequence_length,
        micro_batch_size=config.data.micro_batch_size,
        max_batches=max_batches,
    )


def _saved_config(folder: Path) -> RunConfig:
    """Return the resolved config of the run that wrote a checkpoint; the defaults for one that does not say."""
    if not (folder / STATE).is_file():
        return RunConfig()
    try:
        return RunConfig.model_validate_json(canonical_json(read_state(folder).get("config")))
    except ValueError as error:
        raise CheckpointError(
            f"{folder / STATE} holds settings that this version does not read: {error}"
        ) from None
