"""The training objective: next-token cross-entropy over chunks of rows, its gradients made on the way forward.

    hidden (N, D) --chunk--> logits (R, V) -> softmax -> loss
                                  |-> (softmax - one_hot) @ head   -> gradient of the chunk's hidden states
                                  `-> (softmax - one_hot)^T @ hidden  added to the gradient of the head

The (B, T, V) logits and their gradient never exist: the loss is the last thing computed, so its gradients can be
made while a chunk's logits are at hand, and the backward pass only multiplies them by what comes from above. In
half precision one token's share of a large batch underflows before a loss scale arrives from above, so `scale`
multiplies inside; the head's gradient is summed over chunks in float32.

With label smoothing e the target is (1 - e) one_hot + e / num_tokens (arXiv:1512.00567, section 7): the loss is
log(sum(exp(logits))) - (1 - e) logit of the label - e mean(logits). `token_losses` are never smoothed.

Rows of the head from `num_tokens` on are padding: not part of the softmax, gradient exactly zero. The module can
be the root of sharding: it reaches the model through `hidden` and `lm_head.weight` only.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from candlewick.data.rows.chunking import IGNORE_INDEX
from candlewick.model.documents import Documents
from candlewick.model.transformer import Transformer

MAX_CHUNK_BYTES = 64 << 20
MIN_CHUNK_ROWS = 256


class _Settings(NamedTuple):
    num_tokens: int
    rows: int  # of a chunk
    label_smoothing: float


class NextTokenLoss(nn.Module):
    """A Transformer and its loss; `num_tokens` is the tokenizer's size, over which `label_smoothing` spreads.

    `chunk_rows` bounds the rows whose logits exist at a time; large vocabularies get fewer, so that a chunk stays
    below 64 MiB, but not fewer than 256: the products would get slow.
    """

    def __init__(
        self, model: Transformer, *, num_tokens: int, label_smoothing: float = 0.0, chunk_rows: int = 1024
    ) -> None:
        super().__init__()
        if not 0 < num_tokens <= model.vocab_size:
            raise ValueError(f"num_tokens={num_tokens} must be in 1..vocab_size={model.vocab_size}")
        self.model = model
        affordable = max(MIN_CHUNK_ROWS, MAX_CHUNK_BYTES // (4 * num_tokens))
        self.settings = _Settings(num_tokens, min(chunk_rows, affordable), label_smoothing)

    def forward(
        self, tokens: Tensor, targets: Tensor, scale: float | Tensor, documents: Documents | None = None
    ) -> Tensor:
        """Return scale * (sum of the smoothed cross-entropies of the targets that count), a float32 scalar.

        tokens, targets (B, T) of integers; IGNORE_INDEX is a target that does not count; scale a number or a 0-dim
        tensor, 1 / (number of targets of the global batch) as a rule; with documents a token sees its own only.
        """
        hidden = self.model.hidden(tokens, documents=documents).flatten(0, 1)  # (N, D)
        head = self.model.lm_head.weight
        labels = targets.flatten().long()  # (N,)
        coefficients = (labels != IGNORE_INDEX).to(_sum_dtype(hidden)) * scale  # (N,)
        if torch.is_grad_enabled() and (hidden.requires_grad or head.requires_grad):
            return cast(Tensor, _ChunkedCrossEntropy.apply(hidden, head, labels, coefficients, self.settings))
        losses, _ = _score(hidden, head, labels, self.settings)
        return (coefficients * losses).sum()

    @torch.no_grad()
    def token_losses(
        self, tokens: Tensor, targets: Tensor, documents: Documents | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return each target's float32 cross-entropy (B, T), and whether it was likeliest; uncounted: 0, False."""
        hidden = self.model.hidden(tokens, documents=documents).flatten(0, 1)
        settings = self.settings._replace(label_smoothing=0.0)
        scored = _score(hidden, self.model.lm_head.weight, targets.flatten().long(), settings)
        losses, correct = (part.unflatten(0, tuple(targets.shape)) for part in scored)
        return losses, correct


def _sum_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _logit_chunks(hidden: Tensor, head: Tensor, rows: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield each chunk's rows and logits (R, V) in float32 or wider, all in the same two buffers."""
    total = hidden.shape[0]
    rows = -(-total // -(-total // rows))  # the same number of chunks, of nearly equal size
    product = hidden.new_empty(rows, head.shape[0])
    logits = product if product.dtype == _sum_dtype(hidden) else product.to(_sum_dtype(hidden))
    for start in range(0, total, rows):
        part = slice(start, min(start + rows, total))
        count = part.stop - start
        torch.mm(hidden[part], head.T, out=product[:count])
        if logits is not product:
            logits[:count].copy_(product[:count])
        yield part, logits[:count]


def _score(hidden: Tensor, head: Tensor, labels: Tensor, settings: _Settings) -> tuple[Tensor, Tensor]:
    """Return the losses (N,) and whether each label has the largest logit (N,), without gradients."""
    losses = hidden.new_empty(hidden.shape[0], dtype=_sum_dtype(hidden))
    correct = torch.empty_like(labels, dtype=torch.bool)
    options: Any = {"ignore_index": IGNORE_INDEX, "label_smoothing": settings.label_smoothing}
    with torch.no_grad():
        for part, logits in _logit_chunks(hidden, head[: settings.num_tokens], settings.rows):
            losses[part] = F.cross_entropy(logits, labels[part], reduction="none", **options)
            correct[part] = logits.argmax(dim=1) == labels[part]
    return losses, correct


class _ChunkedCrossEntropy(torch.autograd.Function):
    """sum(coefficients * cross-entropy(hidden @ head^T, labels)), its gradients made in the forward."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor, coefficients: Tensor, settings: _Settings
    ) -> Tensor:
        wants_hidden, wants_head = ctx.needs_input_grad[:2]
        num_tokens, rows, smoothing = settings
        used = head[:num_tokens]
        hidden_grad = torch.empty_like(hidden) if wants_hidden else None
        head_grad = torch.zeros_like(head, dtype=_sum_dtype(hidden)) if wants_head else None
        loss = coefficients.new_zeros(())
        for part, logits in _logit_chunks(hidden, used, rows):
            # IGNORE_INDEX is not a row to gather from; whatever stands there, its coefficient is 0
            label, coefficient = labels[part, None].clamp(min=0), coefficients[part, None]  # (R, 1)
            logits -= logits.amax(dim=1, keepdim=True)
            chosen = logits.gather(1, label)
            if smoothing:
                chosen = chosen.lerp(logits.mean(dim=1, keepdim=True), smoothing)
            sums = logits.exp_().sum(dim=1, keepdim=True)
            loss += (coefficient * (sums.log() - chosen)).sum()
            # the coefficient goes to the thin side of both products, not to the (R, V) one
            logits.div_(sums).scatter_add_(1, label, torch.full_like(sums, smoothing - 1.0))
            if smoothing:
                logits -= smoothing / num_tokens
            logit_grad = logits.to(hidden.dtype)
            if hidden_grad is not None:
                torch.mm(logit_grad, used, out=hidden_grad[part]).mul_(coefficient)
            if head_grad is not None:
                scaled = (hidden[part] * coefficient).to(hidden.dtype)
                _add_product(head_grad[:num_tokens], logit_grad.T, scaled)
        ctx.grads = hidden_grad, head_grad
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        if ctx.grads is None:
            raise RuntimeError("the loss was already differentiated: its gradients are scaled in place, once")
        hidden_grad, head_grad = ctx.grads
        ctx.grads = None
        for grad in (hidden_grad, head_grad):
            if grad is not None:
                grad.mul_(grad_outputs[0])
        return hidden_grad, head_grad, None, None, None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, summed in the dtype of `total`."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total.add_(a @ b)
