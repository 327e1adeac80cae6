"""Validation loss, perplexity, accuracy and bits per UTF-8 byte, in no more memory than training takes.

Bits per byte = (nats per token / ln 2) * (tokens / bytes of the text they encode), so models with different
tokenizers compare. When only a part of the split is read, its tokens are taken to have the split's bytes per
token; over the whole split the figure is exact.
"""

import math

import torch

from candlewick.data.loader import validation_batches
from candlewick.data.token_shards import TokenSplit
from candlewick.train.objective import NextTokenLoss


@torch.no_grad()
def evaluate(
    objective: NextTokenLoss,
    split: TokenSplit,
    *,
    sequence_length: int,
    micro_batch_size: int,
    max_batches: int | None,
) -> dict[str, float]:
    """Return eval/loss (nats per token), eval/perplexity, eval/accuracy, eval/bits_per_byte and eval/tokens."""
    device = next(objective.parameters()).device
    was_training = objective.training
    objective.eval()
    sums = torch.zeros(3, dtype=torch.float64)
    try:
        for batch in validation_batches(
            split,
            sequence_length=sequence_length,
            micro_batch_size=micro_batch_size,
            max_batches=max_batches,
        ):
            moved = batch.to(device)
            losses, correct = objective.token_losses(moved.tokens, moved.targets)
            weights = moved.weights
            # sums per batch are exact enough in float32; adding up many batches is not
            parts = [(losses * weights).sum(), (correct * weights).sum(), weights.sum()]
            sums += torch.stack(parts).cpu().double()
    finally:
        objective.train(was_training)
    total_loss, total_correct, count = sums.tolist()
    loss = total_loss / count
    return {
        "eval/loss": loss,
        "eval/perplexity": math.exp(min(loss, 700.0)),
        "eval/accuracy": total_correct / count,
        "eval/bits_per_byte": loss / math.log(2) * split.num_tokens / split.num_bytes,
        "eval/tokens": count,
    }
