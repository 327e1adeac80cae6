"""Decode prompts that continue each other, as the turns of a conversation do: what is computed is kept.

before   [ a b c d e ]          the tokens in the cache
prompt   [ a b c x y z ]        a b c are taken from it, x y z are computed
"""

from collections.abc import Generator

import torch
from torch import Tensor

from candlewick.config import SampleConfig
from candlewick.generate.engine import Engine, Step
from candlewick.model.cache import KVCache


class ContinuingEngine(Engine):
    """An Engine for one row whose cache stays: of the next prompt, only what differs from it is computed."""

    max_rows = 1
    _cache: KVCache | None = None
    _ids: tuple[int, ...] = ()  # the tokens in the cache

    def _run(
        self, tokens: Tensor, config: SampleConfig, count: int, generators: list[torch.Generator]
    ) -> Generator[Step]:
        ids = tokens[0].tolist()
        cache, self._cache = self._cache, None  # a text that begins before this one ends gets another
        if cache is None or cache.max_tokens < len(ids) + count - 1:
            # twice as long, so that a conversation is computed again a few times only
            size = max(len(ids) + count - 1, min(2 * (len(ids) + count), self.max_positions))
            cache = self.model.new_cache(1, size, self.page_size)
        pairs = zip(self._ids[: cache.length], ids[:-1], strict=False)
        cache.rewind(
            next((i for i, (old, new) in enumerate(pairs) if old != new), min(cache.length, len(ids) - 1))
        )
        try:
            for step in self.decode(tokens, cache, config, count, generators):
                ids += step.ids
                yield step
        finally:
            self._cache, self._ids = cache, tuple(ids[: cache.length])
