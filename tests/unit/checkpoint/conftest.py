"""Fixtures of a small model with an optimizer after some updates, and of its checkpoint."""

import pytest
import torch

from candlewick.checkpoint.save import Snapshot, full_weights
from candlewick.config import ModelConfig, MuonConfig
from candlewick.model.initialize import initialize
from candlewick.model.transformer import Transformer
from candlewick.optim.build import build_optimizer

SHAPE = {"hidden_size": 32, "num_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 16}


@pytest.fixture
def make_model():
    """Make a Transformer with seeded weights: `make_model(seed, **shape)`."""

    def make(seed: int = 0, **shape) -> Transformer:
        model = Transformer(ModelConfig(**SHAPE, **shape), 320)
        model.init_buffers()
        initialize(model, seed)
        return model

    return make


@pytest.fixture
def make_snapshot(make_model, tokenizer):
    """Make a snapshot: `make_snapshot(step, **shape)`; its weights and moments depend on both."""

    def make(step: int, **shape) -> Snapshot:
        model = make_model(step, **shape)
        optimizer = build_optimizer(model, MuonConfig())
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return Snapshot(
            step=step,
            weights=full_weights(model),
            optimizer=optimizer.named_state(),
            state={
                "version": 1,
                "counters": {"step": step},
                "loader": {},
                "random": {},
                "config": {},
                "threads": 1,
            },
            model_config=model.config,
            vocab_size=model.vocab_size,
            tokenizer=tokenizer,
            inputs={"tokens": "a" * 64, "tokenizer": tokenizer.sha256},
        )

    return make
