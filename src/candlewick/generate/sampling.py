"""From logits to a token: pure functions of the logits, what was there before, and generators.

    logits (B, V) -> repetition penalty -> / temperature -> top-k -> top-p -> min-p -> one drawn

The order, and each step, are those of transformers. The penalty (CTRL, arXiv:1909.05858 section 4.1) divides the
positive logits of tokens that were there before and multiplies the negative ones. Top-k keeps the k likeliest;
top-p (nucleus, arXiv:1904.09751) the likeliest of these that together reach p; min-p (arXiv:2407.01082) what is at
least that share as probable as the likeliest. Temperature 0 takes the likeliest token. A row draws with its own
generator: what it draws does not depend on the rows beside it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from candlewick.config import SampleConfig


def sample(
    logits: Tensor, config: SampleConfig, generators: Sequence[torch.Generator], seen: Tensor | None = None
) -> Tensor:
    """Draw one token per row: logits (B, V) -> ids (B,). See `candidates`; generators are on the same device."""
    ids, probabilities = candidates(logits, config, seen)
    if config.temperature == 0:
        return ids[:, 0]
    return ids.gather(-1, sample_token(probabilities, generators)[:, None])[:, 0]


def candidates(logits: Tensor, config: SampleConfig, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return ids (B, k) and probabilities (B, k), which need not add up to 1; `seen` (B, V) ones are penalized."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if seen is not None and config.repetition_penalty != 1:
        penalty = config.repetition_penalty
        logits = torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)
    if config.temperature == 0:
        ids = logits.argmax(dim=-1, keepdim=True)
        return ids, torch.ones_like(ids, dtype=logits.dtype)
    # the largest becomes 0, and stays 0 however small the temperature
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / max(config.temperature, 1e-30)
    size = logits.shape[-1]
    if config.top_k is None and config.top_p is None and config.min_p is None:
        return torch.arange(size, device=logits.device).expand_as(logits), logits.softmax(dim=-1)
    values, ids = logits.topk(min(config.top_k or size, size), dim=-1)  # descending
    probabilities = values.softmax(dim=-1)
    if config.top_p is not None:
        # what the tokens up to this one reach; on the CPU, for want of a deterministic sum on CUDA
        reached = probabilities.cpu().cumsum(dim=-1).to(probabilities.device)
        probabilities = probabilities.masked_fill(reached - probabilities >= config.top_p, 0.0)
    if config.min_p is not None:
        probabilities = probabilities.masked_fill(probabilities < config.min_p * probabilities[:, :1], 0.0)
    return ids, probabilities


def distribution(logits: Tensor, config: SampleConfig, seen: Tensor | None = None) -> Tensor:
    """Return the probability (B, V) with which `sample` draws each token."""
    ids, probabilities = candidates(logits, config, seen)
    whole = torch.zeros(logits.shape, dtype=probabilities.dtype, device=logits.device)
    return whole.scatter(-1, ids, probabilities / probabilities.sum(dim=-1, keepdim=True))


def sample_token(weights: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw one column per row (B, k) -> (B,), each with a chance that is its share of the row's sum.

    Of exponential times with these rates, the least comes from a column that often.
    """
    times = torch.empty_like(weights)
    for row, generator in zip(times, generators, strict=True):
        row.exponential_(generator=generator)
    return (weights / times.clamp_(min=torch.finfo(times.dtype).tiny)).argmax(dim=-1)
