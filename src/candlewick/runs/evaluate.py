"""Evaluate a checkpoint that lies on the disk, on any text or token dataset."""

from pathlib import Path

from candlewick.checkpoint.load import build_model
from candlewick.checkpoint.open import Checkpoint
from candlewick.config import DataConfig, RunConfig
from candlewick.data.tokens.dataset import TokenSplit
from candlewick.errors import CheckpointError
from candlewick.parallel.device import find_device
from candlewick.runs.complete import open_training_data
from candlewick.runs.prepare import Prepared, prepare_run
from candlewick.runs.resolve import PreparePlan, TokenizerPlan, open_texts
from candlewick.runs.sources import all_sources
from candlewick.train.evaluate import evaluate_sets
from candlewick.train.objective import NextTokenLoss
from candlewick.train.plan import Fresh


def evaluate_checkpoint(
    path: Path, data: DataConfig, *, device: str = "auto", max_batches: int | None = None
) -> dict[str, float]:
    """Return the metrics of a checkpoint on `data.train_shards`; if that names nothing: on all its run held out.

    All of a text is read, of a token dataset its validation split. `device` is a word of `runtime.device`. The
    cache may grow: here nobody set its limit. Raises CheckpointError, DataError and MachineError.
    """
    checkpoint = Checkpoint.open(path, need={"weights"})
    model = build_model(checkpoint, find_device(device))
    config = checkpoint.config or RunConfig()
    if sources := data.train_shards:
        config = config.replaced(data=_only_validation(config.data, sources, data.cache_dir))
    elif not all_sources(config.data):
        raise CheckpointError(
            f"{checkpoint.folder} does not say what it was trained on", "name the text to evaluate on"
        )
    prepared = _prepare(config.replaced(data={"cache_max_bytes": None}), checkpoint)
    return evaluate_sets(
        NextTokenLoss(model, num_tokens=checkpoint.tokenizer.vocab_size),
        {"": _whole_or_held_out(prepared)} if sources else open_training_data(prepared).validation_splits,
        config.data,
        sequence_length=config.data.sequence_length or model.config.max_position_embeddings,
        max_batches=max_batches,
    )


def _only_validation(saved: DataConfig, sources: tuple[str, ...], cache: Path | None) -> DataConfig:
    return saved.replaced(
        train_shards=(), mixture=(), validation_shards=sources, validation_sets={}, cache_dir=cache
    )


def _prepare(config: RunConfig, checkpoint: Checkpoint) -> Prepared:
    """Prepare what a config names with the checkpoint's tokenizer; tokens of another one are refused."""
    tokenizer = TokenizerPlan(checkpoint.tokenizer, "given", checkpoint.folder)
    plan = PreparePlan(config, checkpoint.folder, Fresh(), open_texts(config.data), tokenizer, keeps_data=False)
    return prepare_run(plan)


def _whole_or_held_out(prepared: Prepared) -> TokenSplit:
    """Return all of a text, which was prepared for validation alone, or what a token dataset held out."""
    return prepared.datasets["validation"].split("validation")
