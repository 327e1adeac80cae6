import pytest
import torch

from candlewick.config import ModelConfig, SampleConfig
from candlewick.errors import ConfigError
from candlewick.generate.engine import Engine, sample_text, stream_text
from candlewick.model.transformer import Transformer

GREEDY = SampleConfig(temperature=0.0, max_new_tokens=40)


@pytest.fixture
def model() -> Transformer:
    shape = {"hidden_size": 32, "num_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = Transformer(ModelConfig(**shape, max_position_embeddings=24, residual_dropout=0.5), 24)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


class Letters:
    """A tokenizer of one letter per token; 0 is the delimiter."""

    vocab_size, delimiter_id = 20, 0

    def encode(self, text):
        return [ord(letter) - 96 for letter in text]

    def decode(self, ids):
        return "".join(chr(96 + token) for token in ids if token)


def without_cache(model, prompt, count, num_tokens):
    """Greedy decoding that reads everything again for each token."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model.eval()(torch.tensor([ids]))[0, -1, :num_tokens].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("prompt", [[3], [1, 2, 3, 4, 5]])
def test_with_the_cache_it_writes_what_it_writes_without(model, prompt):
    config = SampleConfig(temperature=0.0, max_new_tokens=15)
    assert list(Engine(model, 20).generate(prompt, config)) == without_cache(model, prompt, 15, 20)


def test_it_ends_at_the_models_longest_context(model):
    assert len(list(Engine(model, 20).generate([1, 2, 3], GREEDY))) == 22  # positions 0 to 23 are read
    assert len(list(Engine(model, 20).generate([1] * 24, GREEDY))) == 1


def test_it_ends_before_the_stop_token(model):
    tokens = list(Engine(model, 20).generate([3], GREEDY))
    stop = tokens[4]
    assert list(Engine(model, 20).generate([3], GREEDY, stop_id=stop)) == tokens[: tokens.index(stop)]


def test_the_seed_decides(model):
    config = SampleConfig(temperature=2.0, top_k=None, max_new_tokens=20)
    first, again, other = (list(Engine(model, 20).generate([3], config, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(model, training):
    model.train(training)
    tokens = Engine(model, 20).generate([3], GREEDY)
    next(tokens)
    assert not model.training
    tokens.close()
    assert model.training == training
    assert all(module.training == training for module in model.modules())
    list(Engine(model, 20).generate([3], GREEDY))
    assert model.training == training


def test_gradients_are_still_on_while_it_streams(model):
    next(Engine(model, 20).generate([3], GREEDY))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("prompt", "fix"), [([], "start with the document delimiter"), ([1] * 25, "shorten the prompt")]
)
def test_a_prompt_that_cannot_be_read_is_an_error(model, prompt, fix):
    with pytest.raises(ConfigError, match=f"the prompt has {len(prompt)} tokens, this model reads 1 to 24.*{fix}"):
        Engine(model, 20).generate(prompt, GREEDY)


def test_text_is_what_comes_after_the_prompt_up_to_the_delimiter(model):
    tokens = list(Engine(model, 20).generate([0, 1, 2], GREEDY, stop_id=0))
    expected = Letters().decode(tokens)
    assert sample_text(model, Letters(), "ab", GREEDY, seed=0) == expected
    assert list(stream_text(model, Letters(), "ab", GREEDY, seed=0)) == list(expected)
