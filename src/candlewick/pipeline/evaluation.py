"""Evaluate a checkpoint that lies on the disk, on any text or token dataset."""

from pathlib import Path

import torch

from candlewick.artifacts import canonical_json
from candlewick.checkpoint.layout import STATE, resolve
from candlewick.checkpoint.load import load_for_inference, read_state
from candlewick.config import DataConfig, RunConfig, TokenizerConfig
from candlewick.errors import CheckpointError
from candlewick.pipeline.tokens import token_dataset, training_parts
from candlewick.pipeline.training import open_data, open_validation
from candlewick.train.evaluate import evaluate
from candlewick.train.objective import NextTokenLoss


def evaluate_checkpoint(
    path: Path, data: DataConfig, *, device: torch.device, max_batches: int | None
) -> dict[str, float]:
    """Return the metrics of a checkpoint on `data.train_shards`; if that names nothing: on its run's validation.

    All of a text is read, of a token dataset its validation split. Raises what opening them raises.
    """
    folder = resolve(path)
    model, tokenizer = load_for_inference(folder, device)
    # tokens of another tokenizer than the model's are refused
    update: dict[str, object] = {"tokenizer": TokenizerConfig(tokenizer_json=folder), "model": model.config}
    config = _saved_config(folder)
    if sources := data.train_shards:
        own = {
            "train_shards": sources if token_dataset(sources) is not None else (),
            "validation_shards": sources,
            "mixture": (),
            "validation_sets": {},
            "cache_dir": data.cache_dir,
        }
        split = open_validation(config.model_copy(update={**update, "data": config.data.model_copy(update=own)}))
    elif training_parts(config.data):
        split = open_data(config.model_copy(update=update)).validation
    else:
        raise CheckpointError(f"{folder} does not say what it was trained on", "name the text to evaluate on")
    return evaluate(
        NextTokenLoss(model, num_tokens=tokenizer.vocab_size),
        split,
        config.data,
        sequence_length=config.data.sequence_length or model.config.max_position_embeddings,
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
