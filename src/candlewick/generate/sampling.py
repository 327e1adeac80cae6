"""From logits to a token: pure functions of the logits, the tokens of the context, and generators.

    logits (B, V) -> repetition penalty -> / temperature -> top-k -> top-p -> min-p -> sample

The order and each step are those of transformers. The repetition penalty (CTRL, arXiv:1909.05858 section 4.1)
divides the positive logits of tokens in the context and multiplies the negative ones. Top-k keeps the k likeliest
tokens; top-p (nucleus, arXiv:1904.09751) the likeliest ones whose probabilities add up to p; min-p
(arXiv:2407.01082) those with at least this share of the highest probability. Temperature 0 takes the likeliest
token. Each row has its own generator, so its token does not depend on the other rows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from candlewick.config import SampleConfig


def sample(
    logits: Tensor, config: SampleConfig, generators: Sequence[torch.Generator], seen: Tensor | None = None
) -> Tensor:
    """Sample one token per row: logits (B, V) -> ids (B,); `seen` (B, V), bool, marks the tokens to penalize."""
    ids, probabilities = candidates(logits, config, seen)
    if config.temperature == 0:
        return ids[:, 0]
    return ids.gather(-1, sample_token(probabilities, generators)[:, None])[:, 0]


def candidates(logits: Tensor, config: SampleConfig, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return ids (B, k) and probabilities (B, k), which need not add up to 1; arguments as of `sample`."""
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
        # on the CPU, because cumsum is not deterministic on CUDA
        cumulative = probabilities.cpu().cumsum(dim=-1).to(probabilities.device)
        probabilities = probabilities.masked_fill(cumulative - probabilities >= config.top_p, 0.0)
    if config.min_p is not None:
        probabilities = probabilities.masked_fill(probabilities < config.min_p * probabilities[:, :1], 0.0)
    return ids, probabilities


def distribution(logits: Tensor, config: SampleConfig, seen: Tensor | None = None) -> Tensor:
    """Return the probability (B, V) with which `sample` returns each token."""
    ids, probabilities = candidates(logits, config, seen)
    zeros = torch.zeros(logits.shape, dtype=probabilities.dtype, device=logits.device)
    return zeros.scatter(-1, ids, probabilities / probabilities.sum(dim=-1, keepdim=True))


def sample_token(weights: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Sample one column per row: weights (B, k), which need not add up to 1 -> (B,).

    The Gumbel-max trick with exponential times: the smallest of times with these rates is that of the column.
    """
    times = torch.empty_like(weights)
    for row, generator in zip(times, generators, strict=True):
        row.exponential_(generator=generator)
    return (weights / times.clamp_(min=torch.finfo(times.dtype).tiny)).argmax(dim=-1)
