"""Masks: which keys each query may see, as booleans, True = may be seen.

    causal(3, 5)     blocks(3, 5, 2)     padding(lengths [3, 5], 5)        T = 3 new tokens, the last of S = 5
    1 1 1 0 0        1 1 1 1 0           1 1 1 0 0   row 0 of the batch
    1 1 1 1 0        1 1 1 1 0           1 1 1 1 1   row 1
    1 1 1 1 1        1 1 1 1 1

Every mask has the shape (B|1, 1, T|1, S): it broadcasts over heads and over what it does not depend on. `&`
combines them. With more keys than queries, the queries are the newest: the mask of T queries is the last T rows of
the mask of all. `attention.attend` is causal by itself; `attention.attend_masked` takes any of these.
"""

import torch
from torch import Tensor


def causal(new: int, seen: int, *, window: int | None = None, device: torch.device | None = None) -> Tensor:
    """Show a token and what came before it, with a window the last `window` of these: (1, 1, T, S)."""
    offset = max(0, seen - new)  # more queries than keys start together with them
    mask = torch.ones(new, seen, dtype=torch.bool, device=device).tril(offset)
    return (mask if window is None else mask.triu(offset - window + 1))[None, None]


def blocks(new: int, seen: int, size: int, *, device: torch.device | None = None) -> Tensor:
    """Show blocks of `size` tokens before a token's own, and all of its own: (1, 1, T, S). Raises ValueError."""
    if size < 1:
        raise ValueError(f"a block has at least 1 token, not {size}")
    places = torch.arange(seen, device=device)
    own = torch.arange(new, device=device) + max(0, seen - new)
    return (places // size <= (own // size)[:, None])[None, None]


def padding(tokens: Tensor, seen: int | None = None) -> Tensor:
    """Show keys that are tokens: (B, 1, 1, S).

    `tokens` is bool (B, S), True where a token is; or integers (B,), how many tokens there are before the padding,
    with `seen` the S. Raises ValueError for anything else.
    """
    if tokens.dtype == torch.bool and tokens.ndim == 2 and seen is None:
        return tokens[:, None, None]
    if tokens.dtype.is_floating_point or tokens.dtype == torch.bool or tokens.ndim != 1 or seen is None:
        raise ValueError("padding takes bools (B, S), True where a token is; or lengths (B,) and `seen`")
    return (torch.arange(seen, device=tokens.device) < tokens[:, None])[:, None, None]
