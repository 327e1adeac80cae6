"""Validation loss, perplexity, accuracy and bits per UTF-8 byte, in no more memory than training takes.

Bits per byte = (nats per token / ln 2) * (tokens / bytes of the text they encode), so models with different
tokenizers compare. A part of the split is taken to have the split's bytes per token. Of chats the answers count.
"""

import math
from collections.abc import Callable, Mapping

import torch

from candlewick.config import DataConfig
from candlewick.data.rows.chunking import IGNORE_INDEX
from candlewick.data.rows.loader import validation_batches
from candlewick.data.tokens.dataset import TokenSplit
from candlewick.train.objective import NextTokenLoss


def evaluate_sets(
    objective: NextTokenLoss,
    splits: Mapping[str, TokenSplit],
    data: DataConfig,
    *,
    sequence_length: int,
    max_tokens: int | None,
    before_batch: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Return eval/NAME/loss and so on of each split, of the one with the empty name eval/loss and so on.

    At most `max_tokens` of each are read. `before_batch` may raise to end the evaluation.
    """
    figures: dict[int, dict[str, float]] = {}  # by split: of a mixture the first set is the main one
    metrics: dict[str, float] = {}
    for name, split in splits.items():
        if (key := id(split)) not in figures:
            figures[key] = evaluate(
                objective,
                split,
                data,
                sequence_length=sequence_length,
                max_tokens=max_tokens,
                before_batch=before_batch,
            )
        prefix = f"eval/{name}/" if name else "eval/"
        metrics |= {figure.replace("eval/", prefix): value for figure, value in figures[key].items()}
    return metrics


def is_of_all(metrics: Mapping[str, float], splits: Mapping[str, TokenSplit]) -> bool:
    """Return whether the metrics of `evaluate_sets` are those of all targets of the splits."""
    names = {name: f"eval/{name}/tokens" if name else "eval/tokens" for name in splits}
    return all(metrics[names[name]] == split.num_targets for name, split in splits.items())


@torch.no_grad()
def evaluate(
    objective: NextTokenLoss,
    split: TokenSplit,
    data: DataConfig,
    *,
    sequence_length: int,
    max_tokens: int | None,
    before_batch: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Return eval/loss (nats per token) and the other figures; not numbers when no target counts."""
    device = next(objective.parameters()).device
    was_training = objective.training
    objective.eval()
    sums = torch.zeros(3, dtype=torch.float64)
    try:
        for batch in validation_batches(split, data, sequence_length=sequence_length, max_tokens=max_tokens):
            before_batch()
            batch = batch.to(device)
            losses, correct = objective.token_losses(batch.tokens, batch.targets, batch.documents)
            counts = correct.sum(), (batch.targets != IGNORE_INDEX).sum()
            # sums per batch are exact enough in float32; adding up many batches is not
            sums += torch.stack([losses.sum(), *counts]).cpu().double()
    finally:
        objective.train(was_training)
    loss, accuracy = (sums[:2] / sums[2]).tolist()
    return {
        "eval/loss": loss,
        "eval/perplexity": math.exp(min(loss, 700.0)),
        "eval/accuracy": accuracy,
        "eval/bits_per_byte": loss / math.log(2) * split.num_targets / split.num_bytes,
        "eval/tokens": sums[2].item(),
    }
