"""From logits to a token: temperature, top-k, top-p. Pure functions of the logits and a generator.

    logits (B, V) -> first num_tokens -> / temperature -> k likeliest -> likeliest that reach p -> one drawn

Temperature 0 takes the likeliest token and draws nothing. Top-p (nucleus, arXiv:1904.09751) is applied to what
top-k left, renormalized, and always keeps the likeliest token.
"""

import torch
from torch import Tensor

from candlewick.config import SampleConfig


def sample(logits: Tensor, num_tokens: int, config: SampleConfig, generator: torch.Generator) -> Tensor:
    """Draw one token per row: logits (B, V) -> ids (B,). Ids from `num_tokens` on are padding, never drawn.

    `generator` lives on the device of the logits.
    """
    logits = logits[:, :num_tokens].float()
    if config.temperature == 0:
        return logits.argmax(dim=-1)
    # the largest becomes 0, and stays 0 however small the temperature
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / max(config.temperature, 1e-30)
    if config.top_k is None and config.top_p is None:
        return _draw(logits.softmax(dim=-1), generator)
    values, ids = logits.topk(min(config.top_k or num_tokens, num_tokens), dim=-1)  # descending
    probabilities = values.softmax(dim=-1)
    if config.top_p is not None:
        # what the tokens up to this one reach; on the CPU, for want of a deterministic sum on CUDA
        reached = probabilities.cpu().cumsum(dim=-1).to(probabilities.device)
        likelier = reached - probabilities
        probabilities = probabilities.masked_fill(likelier >= config.top_p, 0.0)
    return ids.gather(-1, _draw(probabilities, generator)[:, None]).squeeze(-1)


def _draw(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)
