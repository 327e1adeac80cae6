"""Speculative decoding: a small model proposes tokens, the large one checks them all in one pass.

    ids ... a  --draft-->  x1 x2 x3 x4        from q1 .. q4, one small pass each
    a x1 x2 x3 x4 --model--> p1 .. p4, p5     one large pass
    keep x1, x2, ... while  u < p(x) / q(x);  at the first that fails draw from max(0, p - q) instead;
    when all are kept, draw one more from p5

The tokens have the distribution of plain decoding; at temperature 0 they are the same. Temperature, penalty and
truncation apply to p and q alike. The method is faster if a pass over a few tokens costs the large model little
more than a pass over one, and the draft agrees often. Reference: arXiv:2211.17192, algorithm 1.
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

    `acceptance_rate` is that of the last text. The draft proposes tokens up to the end of its context.
    """

    max_rows = 1

    def __init__(
        self, model: Transformer, draft: Transformer, num_tokens: int, draft_tokens: int, page_size: int | None
    ) -> None:
        super().__init__(model, num_tokens, page_size)
        self.draft = Engine(draft, num_tokens, page_size)
        self.draft_tokens = draft_tokens
        if self.draft.max_positions < self.max_positions:
            logger.warning("the draft reads %d tokens: later ones have no draft", self.draft.max_positions)

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
                # the model adds one token to the proposed ones; the draft does not read its own last one
                num_draft = min(self.draft_tokens, end - len(ids) - 1, self.draft.max_positions + 1 - len(ids))
                num_draft = max(0, num_draft)
                seen = torch.zeros(num_draft + 1, self.num_tokens, dtype=torch.bool, device=self.device)
                seen[:, ids] = True
                proposal, q = self._propose(ids, seen, draft_cache, config, generators)
                unread = torch.cat((ids[cache.length :], proposal))[None]
                logits = self.forward(unread, cache, last=num_draft + 1)[0]  # (num_draft + 1, num_tokens)
                num_accepted, last = _accept(proposal, q, distribution(logits, config, seen), generators)
                new = torch.cat((proposal[:num_accepted], last))
                ids = torch.cat((ids, new))
                for each in (cache, draft_cache):
                    each.rewind(min(each.length, len(ids) - 1))
                proposed, accepted = proposed + num_draft, accepted + num_accepted
                self.acceptance_rate = accepted / max(1, proposed)
                for index, token in enumerate(new.tolist()):
                    yield Step([token], logits[index : index + 1])

    def _propose(
        self, ids: Tensor, seen: Tensor, cache: KVCache, config: SampleConfig, generators: list[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """Return proposed ids (N,) and q (N + 1, num_tokens), whose last row is zero: it has no proposal.

        `seen` (N + 1, num_tokens) says for each position which tokens precede it; proposed ids are added.
        """
        probabilities: list[Tensor] = []
        for index in range(len(seen) - 1):
            logits = self.draft.forward(ids[cache.length :][None], cache)[:, 0]
            probabilities.append(distribution(logits, config, seen[index : index + 1]))
            token = sample_token(probabilities[-1], generators)
            seen[index + 1 :, token] = True
            ids = torch.cat((ids, token))
        q = torch.cat((*probabilities, torch.zeros(1, self.num_tokens, device=self.device)))
        return ids[len(ids) - len(probabilities) :], q


def _accept(proposal: Tensor, q: Tensor, p: Tensor, generators: list[torch.Generator]) -> tuple[int, Tensor]:
    """Return how many of the proposed ids (N,) are accepted, and the id (1,) that follows these."""
    u = torch.rand(len(proposal), dtype=p.dtype, device=p.device, generator=generators[0])
    proposal_p, proposal_q = (x[:-1].gather(1, proposal[:, None])[:, 0] for x in (p, q))
    count = int((u * proposal_q < proposal_p).cumprod(dim=0).sum())
    residual = (p[count] - q[count]).clamp(min=0)
    # of equal p and q rounding may leave a residual of zero
    return count, sample_token(torch.where(residual.sum() > 0, residual, p[count])[None], generators)
