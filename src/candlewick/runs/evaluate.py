"""Evaluate a checkpoint that lies on the disk, on any text or token dataset."""

import logging
from pathlib import Path

import numpy as np

from candlewick.checkpoint.load import build_model
from candlewick.checkpoint.open import Checkpoint
from candlewick.config import DataConfig, RunConfig
from candlewick.config.load import load_config
from candlewick.config.seal import read_run_id
from candlewick.data.rows.batches import BatchSchedule
from candlewick.data.text.stories.parse import story_bits
from candlewick.data.text.stories.source import STORIES
from candlewick.data.tokens.dataset import TokenSplit
from candlewick.errors import CheckpointError
from candlewick.parallel.device import find_device
from candlewick.runs.complete import open_training_data
from candlewick.runs.prepare import prepare_run
from candlewick.runs.resolve import PreparePlan, TokenizerPlan, open_texts
from candlewick.runs.sources import all_sources, without_lost_datasets
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.train.evaluate import evaluate_sets
from candlewick.train.objective import NextTokenLoss
from candlewick.train.plan import Fresh

logger = logging.getLogger(__name__)


def _find_config(checkpoint: Checkpoint) -> RunConfig:
    """Return the config of a checkpoint, with the places of its data that its run has now: it may have moved."""
    config, path = checkpoint.config or RunConfig(), checkpoint.folder.resolve().parent.parent / "config.yaml"
    if checkpoint.run is None or read_run_id(path) != checkpoint.run:
        return config
    return config.replaced(data=load_config(path).data)


def evaluate_checkpoint(
    path: Path, data: DataConfig, *, device: str = "auto", max_tokens: int | None = None
) -> dict[str, float]:
    """Return the metrics of a checkpoint on `data.train_shards`; if that names nothing: on all its run held out.

    Of a token dataset the validation split is read. Where all text is stories://, eval/floor is the least mean of
    bits per byte that any model can reach. Raises CheckpointError, DataError, MachineError.
    """
    checkpoint = Checkpoint.open(path, need={"weights"})
    model = build_model(checkpoint, find_device(device))
    objective = NextTokenLoss(model, num_tokens=checkpoint.tokenizer.vocab_size)
    return evaluate_model(checkpoint, objective, data, max_tokens=max_tokens)


def evaluate_model(
    checkpoint: Checkpoint,
    objective: NextTokenLoss,
    data: DataConfig,
    *,
    max_tokens: int | None = None,
    is_plain: bool = False,
) -> dict[str, float]:
    """Evaluate the loaded model of a checkpoint as `evaluate_checkpoint` does.

    With `is_plain`, `data.train_shards` are files of plain text, one document each, whatever the run reads.
    """
    config = _find_config(checkpoint)
    if sources := data.train_shards:
        only = {"validation_shards": sources, "validation_sets": {}, "prepared": {}, "prepared_from": {}}
        others = {"train_shards": (), "mixture": (), "cache_dir": data.cache_dir}
        others |= {"format": "text", "documents": "file"} if is_plain else {}
        config = config.replaced(data={**only, **others})
    elif not all_sources(config.data):
        raise CheckpointError(
            f"{checkpoint.folder} does not say what it was trained on", "name the text to evaluate on"
        )
    own_cache = config.data.cache_dir or data.cache_dir  # an imported run has none until it is trained
    config = without_lost_datasets(config.replaced(data={"cache_dir": own_cache}))
    # tokens of another tokenizer are refused
    tokenizer = TokenizerPlan(checkpoint.tokenizer, "named", checkpoint.folder)
    texts, batches = open_texts(config.data), BatchSchedule(config.data.micro_batch_size)
    prepared = prepare_run(PreparePlan(config, checkpoint.folder, Fresh(), batches, tokenizer, texts))
    # all of a text was prepared for validation alone; of a token dataset it is what that held out
    split = prepared.datasets["validation"].split("validation") if sources else None
    splits = open_training_data(prepared).validation_splits if split is None else {"": split}
    metrics = evaluate_sets(
        objective,
        splits,
        config.data,
        sequence_length=config.data.sequence_length or checkpoint.shape[0].max_position_embeddings,
        max_tokens=max_tokens,
    )
    uris = sources or [uri for named in all_sources(config.data).values() for uri in named]
    if all(uri.startswith(STORIES) for uri in uris):
        for name, split in splits.items():
            prefix = f"eval/{name}/" if name else "eval/"
            if (floor := story_floor(split, checkpoint.tokenizer)) is not None:
                above = metrics[f"{prefix}bits_per_byte"] - floor
                metrics |= {f"{prefix}floor": floor, f"{prefix}above_floor": above}
    return metrics


def story_floor(split: TokenSplit, tokenizer: Tokenizer) -> float | None:
    """Return the bits per byte of the grammar itself on a split of stories; for other text warn, return None."""
    tokens = split.read_tokens(0, split.num_tokens)
    documents = np.split(tokens, np.flatnonzero(tokens == split.delimiter_id))
    bits = [story_bits(tokenizer.decode(document.tolist())) for document in documents if document.size]
    if others := bits.count(None):
        logger.warning("%d of %d documents are no stories of this version: there is no floor", others, len(bits))
        return None
    return sum(filter(None, bits)) / split.num_bytes
