"""Masks: which keys each query sees, as booleans.

    causal(3, 5)     blocks(3, 5, 2)     padding(lengths [3, 5], 5)        T = 3 new tokens, the last of S = 5
    1 1 1 0 0        1 1 1 1 0           1 1 1 0 0   row 0 of the batch
    1 1 1 1 0        1 1 1 1 0           1 1 1 1 1   row 1
    1 1 1 1 1        1 1 1 1 1

Every mask has the shape (B|1, 1, T|1, S) and broadcasts. `&` combines masks. With more keys than queries, the
queries are the newest tokens: the mask of T queries is the last T rows of the mask of all. `attention.attend` is
causal without a mask; `attention.attend_masked` takes any of these.
"""

import torch
from torch import Tensor


def causal(queries: int, keys: int, *, window: int | None = None, device: torch.device | None = None) -> Tensor:
    """Show each token itself and the tokens before it, `window` tokens at most: (1, 1, T, S)."""
    offset = max(0, keys - queries)  # with more queries than keys, both begin at position 0
    mask = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(offset)
    return (mask if window is None else mask.triu(offset - window + 1))[None, None]


def blocks(queries: int, keys: int, size: int, *, device: torch.device | None = None) -> Tensor:
    """Show each token its block of `size` tokens and the blocks before it: (1, 1, T, S). Raises ValueError."""
    if size < 1:
        raise ValueError(f"a block has at least 1 token, not {size}")
    key_positions = torch.arange(keys, device=device)
    query_positions = torch.arange(queries, device=device) + max(0, keys - queries)
    return (key_positions // size <= (query_positions // size)[:, None])[None, None]


def padding(tokens: Tensor, keys: int | None = None) -> Tensor:
    """Show the keys that are tokens, not padding: (B, 1, 1, S).

    `tokens` is bool (B, S), True for a token; or integers (B,), the number of tokens before the padding, with
    `keys` as S. Raises ValueError for anything else.
    """
    if tokens.dtype == torch.bool and tokens.ndim == 2 and keys is None:
        return tokens[:, None, None]
    if tokens.dtype.is_floating_point or tokens.dtype == torch.bool or tokens.ndim != 1 or keys is None:
        raise ValueError("padding takes bools (B, S), True where a token is; or lengths (B,) and `keys`")
    return (torch.arange(keys, device=tokens.device) < tokens[:, None])[:, None, None]
