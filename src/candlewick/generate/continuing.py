"""Decode prompts that continue each other, as the turns of a conversation do: what is computed is kept.

before   [ a b c d e ]          the tokens in the cache
prompt   [ a b c x y z ]        a b c are taken from it, x y z are computed
"""

from torch import Tensor

from candlewick.generate.engine import Engine
from candlewick.model.cache import KVCache


class ContinuingEngine(Engine):
    """An Engine for one row whose cache stays: of the next prompt, only what differs from it is computed."""

    max_rows = 1
    _cache: KVCache | None = None
    _ids: tuple[int, ...] = ()  # the tokens in the cache

    def make_cache(self, tokens: Tensor, max_tokens: int) -> KVCache:
        """Return the cache with as many of the first of `tokens` (1, T) as are in it, but for the last."""
        ids = tokens[0].tolist()
        if self._cache is None or self._cache.max_tokens < max_tokens:
            # twice as long, so that a conversation is computed again a few times only
            size = min(2 * max_tokens, max(max_tokens, self.max_positions))
            self._cache, self._ids = self.model.new_cache(1, size, self.page_size), ()
        pairs = zip(self._ids, ids[:-1], strict=False)
        num_same = next((i for i, (old, new) in enumerate(pairs) if old != new), min(len(self._ids), len(ids) - 1))
        self._cache.rewind(num_same)
        self._ids = self._ids[:num_same]
        return self._cache

    def forward(self, tokens: Tensor, cache: KVCache, last: int = 1) -> Tensor:
        """Do as `Engine.forward`, and note which tokens are in the cache now."""
        logits = super().forward(tokens, cache, last)
        self._ids += tuple(tokens[0].tolist())  # only now: an interrupted pass leaves nothing
        return logits
