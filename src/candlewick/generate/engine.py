"""Decode with a key-value cache: one pass over the prompts, then one token of each row at a time.

    prompts (B, T) --hidden--> last states -> head -> sample --> yield
                        ^ cache                          |
                        `------------ (B, 1) <-----------'

Each token is yielded as soon as it is sampled, up to `max_new_tokens` or the end of the model's context. Closing
the iterator ends the text earlier.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from candlewick.config import SampleConfig
from candlewick.errors import ConfigError
from candlewick.generate.detokenize import TextStream
from candlewick.generate.sampling import sample
from candlewick.model.cache import KVCache
from candlewick.model.transformer import Transformer
from candlewick.tokenizer.bpe import Tokenizer

StopReason = Literal["end", "text", "length", "context"]
"""Why a text stops: a token that ends it, a stop text, `max_new_tokens`, or the end of the model's context."""


@dataclass(frozen=True, slots=True)
class Step:
    """The next token of each row, and the logits (B, num_tokens) from which it was sampled."""

    ids: list[int]
    logits: Tensor


class Engine:
    """A Transformer that generates tokens with ids below `num_tokens`; with `page_size` the cache is paged."""

    max_rows = 16  # of one batch
    acceptance_rate: float | None = None  # share of a draft model's tokens; None: there is no draft model

    def __init__(self, model: Transformer, num_tokens: int, page_size: int | None = None) -> None:
        self.model, self.num_tokens, self.page_size = model, num_tokens, page_size
        self.max_positions = model.config.max_position_embeddings
        self.device = model.lm_head.weight.device

    def validate_prompt(self, prompt: Sequence[int]) -> None:
        """Raise ConfigError for a prompt that is empty or longer than the model's context."""
        if not 0 < len(prompt) <= self.max_positions:
            raise ConfigError(
                f"the prompt has {len(prompt)} tokens, this model reads 1 to {self.max_positions}",
                "shorten the prompt" if prompt else "start with the document delimiter",
            )

    def steps(
        self, prompts: Sequence[Sequence[int]], config: SampleConfig, seeds: Sequence[int]
    ) -> Generator[Step]:
        """Yield the tokens after prompts of equal length, with the model in evaluation mode.

        A row depends on its prompt and seed alone. Raises ConfigError as `validate_prompt` does.
        """
        self.validate_prompt(prompts[0])
        count = min(config.max_new_tokens, self.max_positions + 1 - len(prompts[0]))
        tokens = torch.tensor([list(prompt) for prompt in prompts], device=self.device)
        return self._run(tokens, config, count, [torch.Generator(self.device).manual_seed(s) for s in seeds])

    def _run(
        self, tokens: Tensor, config: SampleConfig, count: int, generators: list[torch.Generator]
    ) -> Generator[Step]:
        rows, length = tokens.shape
        cache = self.model.new_cache(rows, length + count - 1, self.page_size)
        yield from self.decode(tokens, cache, config, count, generators)

    def decode(
        self, tokens: Tensor, cache: KVCache, config: SampleConfig, count: int, generators: list[torch.Generator]
    ) -> Generator[Step]:
        """Yield `count` tokens after the prompts (B, T), of which the first may be in the cache already."""
        seen = torch.zeros(len(tokens), self.num_tokens, dtype=torch.bool, device=self.device)
        seen.scatter_(1, tokens, True)
        tokens = tokens[:, cache.length :]
        with eval_mode(self.model):
            for _ in range(count):
                logits = self.forward(tokens, cache)[:, 0]
                ids = sample(logits, config, generators, seen)
                yield Step(ids.tolist(), logits)
                tokens = ids[:, None]
                seen.scatter_(1, tokens, True)

    def stop_at(self, num_tokens: int, config: SampleConfig) -> StopReason:
        """Return why a text of so many new tokens stopped, if no token of it says so."""
        return "length" if num_tokens == config.max_new_tokens else "context"

    @torch.no_grad()  # not inference_mode: a sharded model gathers weights that training uses later
    def forward(self, tokens: Tensor, cache: KVCache, last: int = 1) -> Tensor:
        """Append tokens (B, T) to the cache; return the logits (B, last, num_tokens) of the last of them."""
        hidden = self.model.hidden(tokens, cache=cache)[:, -last:]  # (B, last, D)
        return F.linear(hidden, self.model.lm_head.weight[: self.num_tokens])


@contextmanager
def eval_mode(model: nn.Module) -> Generator[None]:
    """Put a model into evaluation mode while the block runs."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def make_text_stream(tokenizer: Tokenizer, config: SampleConfig) -> TextStream:
    """Make the stream that decodes the tokens of a text up to a special token or a stop text."""
    return TextStream(
        tokenizer.decode_continuation,
        stop_ids={*tokenizer.stop_ids, *(tokenizer.chat_ids or ())},
        stops=config.stop,
    )


class TextGeneration:
    """The text after a prompt of ids, piece by piece; meanwhile its number of tokens, at the end why it stopped.

    Raises ConfigError as `Engine.validate_prompt` does.
    """

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, prompt: Sequence[int], config: SampleConfig, *, seed: int
    ) -> None:
        engine.validate_prompt(prompt)
        self.num_tokens = 0
        self.stop: StopReason | None = None
        self._pieces = self._generate(engine, tokenizer, prompt, config, seed)

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def close(self) -> None:
        """End the text where it is."""
        self._pieces.close()

    def _generate(
        self, engine: Engine, tokenizer: Tokenizer, prompt: Sequence[int], config: SampleConfig, seed: int
    ) -> Generator[str]:
        text = make_text_stream(tokenizer, config)
        with closing(engine.steps([prompt], config, [seed])) as steps:
            for step in steps:
                self.num_tokens += 1
                if new_text := text.push(step.ids[0]):
                    yield new_text
                if text.stop:
                    self.stop = text.stop
                    return
        self.stop = engine.stop_at(self.num_tokens, config)
        if new_text := text.flush():
            yield new_text


def sample_text(model: Transformer, tokenizer: Tokenizer, prompt: str, config: SampleConfig, *, seed: int) -> str:
    """Return the text that the model generates after a prompt, which starts a document."""
    ids = [tokenizer.delimiter_id, *tokenizer.encode(prompt)]
    return "".join(TextGeneration(Engine(model, tokenizer.vocab_size), tokenizer, ids, config, seed=seed))
