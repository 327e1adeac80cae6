import pytest
import torch

from candlewick.config import ModelConfig
from candlewick.model.transformer import Transformer


class Letters:
    """A tokenizer of one letter per token; 0 is the delimiter."""

    vocab_size, delimiter_id, chat_ids, stop_ids = 20, 0, None, (0,)

    def encode(self, text):
        return [ord(letter) - 96 for letter in text]

    def decode(self, ids, *, skip_special=True):
        return "".join(chr(96 + token) for token in ids if token or not skip_special)

    def decode_continuation(self, ids):
        return self.decode(ids)


@pytest.fixture
def letters():
    return Letters()


def make_model(seed: int, longest: int = 24, rows: int = 24, scale: float = 0.5) -> Transformer:
    config = ModelConfig(
        hidden_size=32,
        num_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=longest,
        residual_dropout=0.5,
    )
    model = Transformer(config, rows)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture
def models():
    """Make random models: `models(seed, ...)`."""
    return make_model


@pytest.fixture
def model(models) -> Transformer:
    return models(0)
