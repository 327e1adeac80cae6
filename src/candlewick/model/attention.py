"""Attention: one function for every use, over PyTorch's `scaled_dot_product_attention`.

    q  (B, H, T, d)   the new tokens           k, v  (B, K, S, d)   all tokens up to the last new one, S >= T

New token t sees the S - T tokens of the past and the new ones up to itself: with T = S the causal mask, with
T = 1 no mask at all, in between a mask aligned to the lower right corner. With K < H each group of H / K query
heads shares one key and value head (GQA, arXiv:2305.13245); the kernels do that natively, without copies.

Dropout of the attention weights, and the mask of the third case, cost the fast kernels; in float32 on CUDA
grouped heads do too. Training without dropout in bfloat16, and decoding, stay on them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0) -> Tensor:
    """Mix the values each query may see: q (B, H, T, d), k and v (B, K, S, d) -> (B, H, T, d).

    The scores are scaled by d**-0.5. `dropout` is the share of attention weights to drop; give 0 outside of
    training.
    """
    new, seen = q.shape[2], k.shape[2]
    mask = None
    if 1 < new < seen:
        mask = torch.ones(new, seen, dtype=torch.bool, device=q.device).tril(seen - new)  # (T, S)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=new == seen and new > 1,
        enable_gqa=q.shape[1] != k.shape[1],
    )
