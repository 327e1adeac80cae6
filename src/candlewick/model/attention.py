"""Causal attention for training, prompts and decoding, by PyTorch's `scaled_dot_product_attention`.

    q  (B, H, T, d)   the new tokens           k, v  (B, K, S, d)   the past and the new tokens, S >= T

New token t sees the S - T tokens of the past and the new ones up to itself. With K < H each group of H / K query
heads shares one key and value head (GQA, arXiv:2305.13245). With a window of w a token sees only itself and the
w - 1 tokens before it (arXiv:2310.06825). With documents a token sees no other document.

On CUDA in half precision one variable-length kernel attends within all documents; it takes windows too. Elsewhere
the documents are attended one after another. Their number depends on the data, which a compiled graph may not: in
it they are one opaque operation. Dropout and masks exclude the fast kernels, on CUDA so do grouped float32 heads.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from candlewick.model.documents import Documents, document_lengths
from candlewick.model.masks import causal
from candlewick.model.varlen import document_kernel, opaque_attention

_causal_mask = lru_cache(maxsize=1)(torch.inference_mode(False)(causal))  # kept for the other layers of a pass


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int | None = None,
    dropout: float = 0.0,
    documents: Documents | None = None,
) -> Tensor:
    """Attend causally: q (B, H, T, d), k and v (B, K, S, d) -> (B, H, T, d).

    `dropout` is the share of attention weights to drop: 0 outside of training. With `documents`, S = T.
    """
    num_queries, num_keys = q.shape[2], k.shape[2]
    if window is not None and window >= num_keys:
        window = None
    if documents is not None and not dropout:
        if torch.compiler.is_compiling():
            return _attend_documents_op([q, k, v], documents.ends, documents.host_ends, window)
        return _attend_documents([q, k, v], documents.ends, documents.lengths, window)
    mask = None
    # the kernel for documents computes windows faster: then each row is a document
    is_packable = num_queries == num_keys and not dropout and not torch.compiler.is_compiling()
    if window is not None and is_packable and document_kernel(q.device, q.dtype, q.shape[-1]) is not None:
        ends = torch.arange(0, (q.shape[0] + 1) * num_queries, num_queries, dtype=torch.int32, device=q.device)
        return _attend_documents([q, k, v], ends, [num_queries] * q.shape[0], window)
    if window is not None and num_queries == 1:
        k, v = k[:, :, -window:], v[:, :, -window:]
    elif window is not None or documents is not None or 1 < num_queries < num_keys:
        mask = _causal_mask(num_queries, num_keys, window=window, device=q.device)
        if documents is not None:
            positions = torch.arange(num_keys, device=q.device)
            starts = positions - documents.positions  # (B, T), position of the first token of the document
            mask = mask & (positions >= starts[..., None])[:, None]  # (B, 1, T, T)
    is_causal, has_groups = mask is None and num_queries > 1, q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal, enable_gqa=has_groups
    )


def attend_masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *, dropout: float = 0.0) -> Tensor:
    """Attend where a mask is True: q (B, H, T, d), k and v (B, K, S, d) -> (B, H, T, d).

    The mask is bool and broadcasts to (B, H, T, S); see `masks`. Nothing else is hidden: it is not causal by
    itself. A query that sees no key gets zeros, with gradients of zero. Raises ValueError for a mask of numbers.
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"the mask is {mask.dtype}: give bools, True where a key may be seen")
    sees_nothing = ~mask.any(dim=-1, keepdim=True)  # (B|1, H|1, T|1, 1)
    # softmax over no keys is NaN, also in gradients that are masked later: such a query sees all keys first
    y = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask | sees_nothing, dropout_p=dropout, enable_gqa=q.shape[1] != k.shape[1]
    )
    return y.masked_fill(sees_nothing, 0.0)


def _attend_documents(qkv: Sequence[Tensor], ends: Tensor, lengths: list[int], window: int | None) -> Tensor:
    """Attend within each document: q (B, H, T, d), k and v (B, K, T, d) -> (B, H, T, d)."""
    batch = qkv[0].shape[0]
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in qkv)  # (B T, heads, d)
    kernel = document_kernel(q.device, q.dtype, q.shape[-1])
    if kernel is not None:  # pragma: cuda
        ends, longest = ends[: len(lengths) + 1], max(lengths)
        y = kernel(
            *(q, k, v, ends, ends, longest, longest),
            window_size=(-1 if window is None else window - 1, 0),  # without the token itself
            enable_gqa=q.shape[1] != k.shape[1],
        )
    else:
        documents = zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
        outputs = (attend(*(x.transpose(0, 1)[None] for x in qkv), window=window) for qkv in documents)
        y = torch.cat([x[0].transpose(0, 1) for x in outputs])  # (B T, H, d)
    return y.unflatten(0, (batch, -1)).transpose(1, 2)


def _attend_host_ends(qkv: Sequence[Tensor], ends: Tensor, host_ends: Tensor, window: int | None) -> Tensor:
    return _attend_documents(qkv, ends, document_lengths(host_ends), window)


_attend_documents_op = opaque_attention(_attend_host_ends)
