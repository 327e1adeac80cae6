"""A model writes: the prompt is read once, then one token at a time with the key-value cache.

    prompt (1, T) --hidden--> last state -> head -> sample --> yield
                      ^ cache                           |
                      `------------ (1, 1) <------------'

Tokens come out as they are made. It ends at the stop token (not yielded), after `max_new_tokens`, or when the next
token would lie beyond the model's longest context.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from candlewick.config import SampleConfig
from candlewick.errors import ConfigError
from candlewick.generate.detokenize import detokenize
from candlewick.generate.sampling import sample
from candlewick.model.cache import KVCache
from candlewick.model.transformer import Transformer
from candlewick.tokenizer.bpe import Tokenizer


class Engine:
    """A Transformer that writes tokens with ids below `num_tokens`, the tokenizer's size."""

    def __init__(self, model: Transformer, num_tokens: int) -> None:
        self.model, self.num_tokens = model, num_tokens
        self.device = model.lm_head.weight.device

    def generate(
        self, prompt: Sequence[int], config: SampleConfig, *, seed: int = 0, stop_id: int | None = None
    ) -> Iterator[int]:
        """Yield new tokens after the prompt. The same seed gives the same tokens.

        The model is in evaluation mode until the iterator ends or is closed, then as it was. Raises ConfigError
        if the prompt is empty or longer than the model's context.
        """
        longest = self.model.config.max_position_embeddings
        if not 0 < len(prompt) <= longest:
            raise ConfigError(
                f"the prompt has {len(prompt)} tokens, this model reads 1 to {longest}",
                "shorten the prompt" if prompt else "start with the document delimiter",
            )
        count = min(config.max_new_tokens, longest + 1 - len(prompt))
        return self._run(torch.tensor([list(prompt)], device=self.device), config, count, seed, stop_id)

    def _run(
        self, tokens: Tensor, config: SampleConfig, count: int, seed: int, stop_id: int | None
    ) -> Iterator[int]:
        generator = torch.Generator(self.device).manual_seed(seed)
        was_training = self.model.training
        self.model.eval()
        try:
            cache = self.model.new_cache(batch_size=1, max_tokens=tokens.shape[1] + count - 1)
            for _ in range(count):
                tokens = sample(self._next_logits(tokens, cache), self.num_tokens, config, generator)[:, None]
                token = int(tokens.item())
                if token == stop_id:
                    return
                yield token
        finally:
            self.model.train(was_training)

    @torch.no_grad()  # not inference_mode: a sharded model gathers weights that training uses later
    def _next_logits(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Read tokens (1, T) into the cache; return the logits (1, num_tokens) of the one that follows."""
        hidden = self.model.hidden(tokens, cache=cache)[:, -1]  # (1, D)
        return F.linear(hidden, self.model.lm_head.weight[: self.num_tokens])


def stream_text(
    model: Transformer, tokenizer: Tokenizer, prompt: str, config: SampleConfig, *, seed: int
) -> Iterator[str]:
    """Yield what the model writes after the prompt, as the start of a document, up to the document's end."""
    ids = [tokenizer.delimiter_id, *tokenizer.encode(prompt)]
    engine = Engine(model, tokenizer.vocab_size)
    return detokenize(engine.generate(ids, config, seed=seed, stop_id=tokenizer.delimiter_id), tokenizer.decode)


def sample_text(model: Transformer, tokenizer: Tokenizer, prompt: str, config: SampleConfig, *, seed: int) -> str:
    """Return what the model writes after the prompt; see `stream_text`."""
    return "".join(stream_text(model, tokenizer, prompt, config, seed=seed))
