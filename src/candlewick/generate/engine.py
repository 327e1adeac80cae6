"""A model writes: the prompts are read once, then one token of each row at a time with the key-value cache.

    prompts (B, T) --hidden--> last states -> head -> sample --> yield
                        ^ cache                          |
                        `------------ (B, 1) <-----------'

Tokens come out as they are made, up to `max_new_tokens`, or until the next one would lie beyond the model's
longest context; whoever takes them ends it earlier by closing the iterator.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Step:
    """The next token of each row, and the logits (B, num_tokens) that it was drawn from."""

    ids: list[int]
    logits: Tensor


class Engine:
    """A Transformer that writes tokens with ids below `num_tokens`; `page_size` is that of a paged cache."""

    max_rows = 16  # rows that `steps` is best given at a time
    acceptance_rate: float | None = None  # of tokens that a draft model proposed: here there is none

    def __init__(self, model: Transformer, num_tokens: int, page_size: int | None = None) -> None:
        self.model, self.num_tokens, self.page_size = model, num_tokens, page_size
        self.longest = model.config.max_position_embeddings
        self.device = model.lm_head.weight.device

    def check(self, prompt: Sequence[int]) -> None:
        """Raise ConfigError if the prompt is empty or longer than the model's context."""
        if not 0 < len(prompt) <= self.longest:
            raise ConfigError(
                f"the prompt has {len(prompt)} tokens, this model reads 1 to {self.longest}",
                "shorten the prompt" if prompt else "start with the document delimiter",
            )

    def steps(
        self, prompts: Sequence[Sequence[int]], config: SampleConfig, seeds: Sequence[int]
    ) -> Generator[Step]:
        """Yield the tokens after prompts of equal length. The same seed gives a row the same tokens.

        The model is in evaluation mode meanwhile. Raises ConfigError for a prompt that it cannot read.
        """
        self.check(prompts[0])
        count = min(config.max_new_tokens, self.longest + 1 - len(prompts[0]))
        tokens = torch.tensor([list(prompt) for prompt in prompts], device=self.device)
        return self._run(tokens, config, count, [torch.Generator(self.device).manual_seed(s) for s in seeds])

    def _run(
        self, tokens: Tensor, config: SampleConfig, count: int, generators: list[torch.Generator]
    ) -> Generator[Step]:
        rows, length = tokens.shape
        seen = torch.zeros(rows, self.num_tokens, dtype=torch.bool, device=self.device).scatter_(1, tokens, True)
        with eval_mode(self.model):
            cache = self.model.new_cache(rows, length + count - 1, self.page_size)
            for _ in range(count):
                logits = self.read(tokens, cache)[:, 0]
                drawn = sample(logits, config, generators, seen)
                yield Step(drawn.tolist(), logits)
                tokens = drawn[:, None]
                seen.scatter_(1, tokens, True)

    @torch.no_grad()  # not inference_mode: a sharded model gathers weights that training uses later
    def read(self, tokens: Tensor, cache: KVCache, last: int = 1) -> Tensor:
        """Read tokens (B, T) into the cache; return the logits (B, last, num_tokens) after the last of them."""
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


def text_stream(tokenizer: Tokenizer, config: SampleConfig) -> TextStream:
    """Return what turns tokens into text, up to a special token or a stop text."""
    return TextStream(
        tokenizer.decode_continuation,
        stop_ids={*tokenizer.stop_ids, *(tokenizer.chat_ids or ())},
        stops=config.stop,
    )


def stream(
    engine: Engine, tokenizer: Tokenizer, prompt: Sequence[int], config: SampleConfig, *, seed: int
) -> Iterator[str]:
    """Yield what is written after a prompt of ids, as soon as it is certain."""
    text = text_stream(tokenizer, config)
    with closing(engine.steps([prompt], config, [seed])) as steps:
        for step in steps:
            if piece := text.push(step.ids[0]):
                yield piece
            if text.is_stopped:
                return
    if piece := text.flush():
        yield piece


def sample_text(model: Transformer, tokenizer: Tokenizer, prompt: str, config: SampleConfig, *, seed: int) -> str:
    """Return what the model writes after the prompt, which starts a document."""
    ids = [tokenizer.delimiter_id, *tokenizer.encode(prompt)]
    return "".join(stream(Engine(model, tokenizer.vocab_size), tokenizer, ids, config, seed=seed))
