"""The speed of a run's updates, measured before there is a run."""

import time

import torch

from candlewick.config import RunConfig
from candlewick.data.rows.loader import Batch, GlobalBatch
from candlewick.model.transformer import Transformer
from candlewick.optim.build import build_optimizer
from candlewick.parallel.device import configure_torch, find_device
from candlewick.train.objective import NextTokenLoss
from candlewick.train.step import train_step

_UPDATES = 6


def seconds_per_update(config: RunConfig, vocab_size: int) -> float:
    """Make a few updates of a model of this size on random tokens, and return how long the fastest one takes."""
    device = find_device(config.runtime.device)
    configure_torch(config.runtime, device)
    with device:
        model = Transformer(config.model, vocab_size)
        tokens = torch.randint(
            vocab_size, (config.data.micro_batch_size, config.sequence_length), dtype=torch.int32
        )
    objective, optimizer = NextTokenLoss(model, num_tokens=vocab_size), build_optimizer(model, config.optimizer)
    passes = max(1, (config.data.global_batch_size or 0) // config.data.micro_batch_size)
    batch = GlobalBatch((Batch(tokens, tokens),) * passes, passes * tokens.numel())
    times: list[float] = []
    for _ in range(_UPDATES):
        began = time.perf_counter()
        train_step(objective, optimizer, batch, None).loss.item()
        times.append(time.perf_counter() - began)
    return min(times)
