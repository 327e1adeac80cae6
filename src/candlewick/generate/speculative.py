"""Speculative decoding: a small model proposes tokens, the large one checks them all in one pass.

    ids ... a  --draft-->  x1 x2 x3 x4        from q1 .. q4, one small pass each
    a x1 x2 x3 x4 --model--> p1 .. p4, p5     one large pass
    keep x1, x2, ... while  u < p(x) / q(x);  at the first that fails draw from max(0, p - q) instead;
    when all are kept, draw one more from p5

The tokens have the distribution of plain decoding, whatever the draft proposes; at temperature 0 the text is the
plain one. What shapes p shapes q alike. It pays where a pass over a few tokens costs the large model little more
than over one, and the draft agrees often. Reference: arXiv:2211.17192, algorithm 1.
"""

import logging
from collections.abc import Generator

import torch
from torch import Tensor

from candlewick.config import SampleConfig
from candlewick.generate.engine import Engine, Step, eval_mode
from candlewick.generate.sampling import distribution, sample_token
from candlewick.model.cache import KVCache
from candlewick.model.transformer import Transformer

logger = logging.getLogger(__name__)


class SpeculativeEngine(Engine):
    """An Engine whose tokens a draft model of the same tokenizer proposes, `draft_tokens` at a time.

    `acceptance_rate` is the share that was kept, of the newest text. The draft proposes up to its longest context.
    """

    max_rows = 1

    def __init__(
        self,
        model: Transformer,
        draft: Transformer,
        num_tokens: int,
        draft_tokens: int,
        page_size: int | None = None,
    ) -> None:
        super().__init__(model, num_tokens, page_size)
        self.draft = Engine(draft, num_tokens, page_size)
        self.draft_tokens = draft_tokens
        if self.draft.longest < self.longest:
            logger.warning("the draft reads %d tokens: beyond them the model writes alone", self.draft.longest)

    def _run(
        self, tokens: Tensor, config: SampleConfig, count: int, generators: list[torch.Generator]
    ) -> Generator[Step]:
        if len(tokens) > 1:
            raise ValueError(f"speculative decoding writes one row at a time, not {len(tokens)}")
        ids = tokens[0]  # (T,) all tokens so far
        end = len(ids) + count
        proposed = accepted = 0
        with eval_mode(self.model), eval_mode(self.draft.model):
            cache, draft_cache = (each.model.new_cache(1, end, each.page_size) for each in (self, self.draft))
            while len(ids) < end:
                # the model adds one token to the proposed ones, and the draft does not read its last
                number = max(0, min(self.draft_tokens, end - len(ids) - 1, self.draft.longest + 1 - len(ids)))
                seen = torch.zeros(number + 1, self.num_tokens, dtype=torch.bool, device=self.device)
                seen[:, ids] = True
                proposal, q = self._propose(ids, seen, draft_cache, config, generators)
                unread = torch.cat((ids[cache.length :], proposal))[None]
                logits = self.read(unread, cache, last=number + 1)[0]  # (number + 1, num_tokens)
                kept, last = _check(proposal, q, distribution(logits, config, seen), generators)
                new = torch.cat((proposal[:kept], last))
                ids = torch.cat((ids, new))
                for each in (cache, draft_cache):
                    each.rewind(min(each.length, len(ids) - 1))
                proposed, accepted = proposed + number, accepted + kept
                self.acceptance_rate = accepted / max(1, proposed)
                for place, token in enumerate(new.tolist()):
                    yield Step([token], logits[place : place + 1])

    def _propose(
        self, ids: Tensor, seen: Tensor, cache: KVCache, config: SampleConfig, generators: list[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """Return proposed ids (N,) and q (N + 1, num_tokens), whose last row is zero: nothing is proposed there.

        `seen` (N + 1, num_tokens) takes in each proposed token for the places after it.
        """
        places: list[Tensor] = []
        for place in range(len(seen) - 1):
            logits = self.draft.read(ids[cache.length :][None], cache)[:, 0]
            places.append(distribution(logits, config, seen[place : place + 1]))
            token = sample_token(places[-1], generators)
            seen[place + 1 :, token] = True
            ids = torch.cat((ids, token))
        q = torch.cat((*places, torch.zeros(1, self.num_tokens, device=self.device)))
        return ids[len(ids) - len(places) :], q


def _check(proposal: Tensor, q: Tensor, p: Tensor, generators: list[torch.Generator]) -> tuple[int, Tensor]:
    """Return how many of the proposed ids (N,) are kept, and the id (1,) that comes after these."""
    chance = torch.rand(len(proposal), dtype=p.dtype, device=p.device, generator=generators[0])
    proposed_p, proposed_q = (x[:-1].gather(1, proposal[:, None])[:, 0] for x in (p, q))
    kept = int((chance * proposed_q < proposed_p).cumprod(dim=0).sum())
    rest = (p[kept] - q[kept]).clamp(min=0)
    # rounding may leave nothing where both are the same
    return kept, sample_token(torch.where(rest.sum() > 0, rest, p[kept])[None], generators)
