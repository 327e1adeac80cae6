"""Attention: one function for every use, over PyTorch's `scaled_dot_product_attention`.

    q  (B, H, T, d)   the new tokens           k, v  (B, K, S, d)   all tokens up to the last new one, S >= T

New token t sees the S - T tokens of the past and the new ones up to itself. With K < H each group of H / K query
heads shares one key and value head (GQA, arXiv:2305.13245). A window of w hides all but the last w tokens, the
token itself included (arXiv:2310.06825). Documents hide what came before the token's own.

Each document is an attention of its own: by one kernel for all of them on CUDA in half precision, which takes
windows too, elsewhere one after another. How many there are depends on the data, which a compiled graph must not:
there it is a single opaque operation. Dropout and masks cost the fast kernels; in float32 on CUDA grouped heads
do.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from candlewick.model.documents import Documents, document_lengths
from candlewick.model.masks import causal
from candlewick.model.varlen import document_kernel, opaque_attention


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int | None = None,
    dropout: float = 0.0,
    documents: Documents | None = None,
) -> Tensor:
    """Mix the values each query may see: q (B, H, T, d), k and v (B, K, S, d) -> (B, H, T, d).

    `dropout` is the share of attention weights to drop: 0 outside of training. With `documents`, S = T.
    """
    new, seen = q.shape[2], k.shape[2]
    if window is not None and window >= seen:
        window = None
    if documents is not None and not dropout:
        if torch.compiler.is_compiling():
            return _attend_opaquely([q, k, v], documents.ends, documents.host_ends, window)
        return _attend_each(q, k, v, documents.ends, documents.lengths, window)
    mask = None
    is_cut = window is not None and new == seen and not dropout and not torch.compiler.is_compiling()
    if is_cut and document_kernel(q.device, q.dtype, q.shape[-1]) is not None:
        ends = torch.arange(0, (q.shape[0] + 1) * new, new, dtype=torch.int32, device=q.device)
        return _attend_each(q, k, v, ends, [new] * q.shape[0], window)
    if window is not None and new == 1:
        k, v = k[:, :, -window:], v[:, :, -window:]
    elif window is not None or documents is not None or 1 < new < seen:
        mask = _band(new, seen, window, q.device)
        if documents is not None:
            places = torch.arange(seen, device=q.device)
            begins = places - documents.positions  # (B, T), where each token's document begins
            mask = mask & (places >= begins[..., None])[:, None]  # (B, 1, T, T)
    causal_only, grouped = mask is None and new > 1, q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal_only, enable_gqa=grouped
    )


@lru_cache(maxsize=1)  # for the other layers of a pass
@torch.inference_mode(False)
def _band(new: int, seen: int, window: int | None, device: torch.device) -> Tensor:
    return causal(new, seen, window=window, device=device)


def attend_masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *, dropout: float = 0.0) -> Tensor:
    """Mix the values that a mask shows: q (B, H, T, d), k and v (B, K, S, d) -> (B, H, T, d).

    The mask is bool, True = may be seen, and broadcasts to (B, H, T, S); see `masks`. It alone decides what is
    hidden. A query that sees nothing gets zeros, and so do its gradients. Raises ValueError for a mask of numbers.
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"the mask is {mask.dtype}: give bools, True where a key may be seen")
    is_blind = ~mask.any(dim=-1, keepdim=True)  # (B|1, H|1, T|1, 1)
    # softmax over nothing is NaN, and stays NaN in gradients that are masked later: such a query sees all first
    y = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask | is_blind, dropout_p=dropout, enable_gqa=q.shape[1] != k.shape[1]
    )
    return y.masked_fill(is_blind, 0.0)


def _attend_each(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, lengths: list[int], window: int | None) -> Tensor:
    """Attend within each document: q (B, H, T, d), k and v (B, K, T, d) -> (B, H, T, d)."""
    batch = q.shape[0]
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # (B T, heads, d)
    kernel = document_kernel(q.device, q.dtype, q.shape[-1])
    if kernel is not None:  # pragma: cuda
        ends, longest = ends[: len(lengths) + 1], max(lengths)
        y = kernel(
            *(q, k, v, ends, ends, longest, longest),
            window_size=(-1 if window is None else window - 1, 0),  # theirs does not count the token itself
            enable_gqa=q.shape[1] != k.shape[1],
        )
    else:
        parts = zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
        mixed = (attend(*(x.transpose(0, 1)[None] for x in part), window=window) for part in parts)
        y = torch.cat([x[0].transpose(0, 1) for x in mixed])  # (B T, H, d)
    return y.unflatten(0, (batch, -1)).transpose(1, 2)


def _attend_each_opaquely(qkv: Sequence[Tensor], ends: Tensor, host_ends: Tensor, window: int | None) -> Tensor:
    q, k, v = qkv
    return _attend_each(q, k, v, ends, document_lengths(host_ends), window)


_attend_opaquely = opaque_attention(_attend_each_opaquely)
