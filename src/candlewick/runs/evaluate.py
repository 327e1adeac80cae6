"""Evaluate a checkpoint that lies on the disk, on any text or token dataset."""

from pathlib import Path

import torch

from candlewick.checkpoint.layout import resolve
from candlewick.checkpoint.load import load_for_inference
from candlewick.config import DataConfig, RunConfig, TokenizerConfig
from candlewick.errors import CheckpointError
from candlewick.runs.start import saved_config
from candlewick.runs.tokens import token_dataset, training_parts
from candlewick.runs.train import open_data, open_validation
from candlewick.train.evaluate import evaluate_sets
from candlewick.train.objective import NextTokenLoss


def evaluate_checkpoint(
    path: Path, data: DataConfig, *, device: torch.device, max_batches: int | None
) -> dict[str, float]:
    """Return the metrics of a checkpoint on `data.train_shards`; if that names nothing: on all its run held out.

    All of a text is read, of a token dataset its validation split. The cache may grow: here nobody set its limit.
    Raises what opening them raises.
    """
    folder = resolve(path)
    model, tokenizer = load_for_inference(folder, device)
    saved = saved_config(folder) or RunConfig()
    own: dict[str, object] = {"cache_max_bytes": None}
    if sources := data.train_shards:
        own |= {
            "train_shards": sources if token_dataset(sources) is not None else (),
            "validation_shards": sources,
            "mixture": (),
            "validation_sets": {},
            "cache_dir": data.cache_dir,
        }
    # tokens of another tokenizer than the model's are refused
    update = {"tokenizer": TokenizerConfig(tokenizer_json=folder), "model": model.config}
    config = saved.model_copy(update={**update, "data": saved.data.model_copy(update=own)})
    if sources:
        splits = {"": open_validation(config)}
    elif training_parts(config.data):
        splits = open_data(config).splits
    else:
        raise CheckpointError(f"{folder} does not say what it was trained on", "name the text to evaluate on")
    return evaluate_sets(
        NextTokenLoss(model, num_tokens=tokenizer.vocab_size),
        splits,
        config.data,
        sequence_length=config.data.sequence_length or model.config.max_position_embeddings,
        max_batches=max_batches,
    )
