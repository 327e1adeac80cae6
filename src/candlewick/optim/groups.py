"""Which kind of parameter is which: a table from name to role, covering every name exactly once.

matrix      the seven projections of a block      Muon's share, if there is a Muon
embedding   rows looked up by token               AdamW: a gradient touches few rows, there is no spectrum
head        rows that score a token               AdamW
vector      norms and biases                      AdamW, no decay: they are scales and offsets, not directions
"""

import re
from typing import Literal

Role = Literal["matrix", "embedding", "head", "vector"]

TABLE: dict[str, Role] = {
    r"model\.layers\.\d+\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj\.weight": "matrix",
    r"model\.embed_tokens\.weight": "embedding",
    r"lm_head\.weight": "head",
    r"model\.(layers\.\d+\.(self_attn\.[qk]_|(input|post_attention)_layer))?norm\.weight": "vector",
    r"model\.layers\.\d+\.\w+\.\w+_proj\.bias": "vector",
}


def role(name: str) -> Role:
    """Return the role of a parameter. Raises ValueError unless exactly one row of the table matches."""
    found: list[Role] = [kind for pattern, kind in TABLE.items() if re.fullmatch(pattern, name)]
    if len(found) != 1:
        raise ValueError(f"parameter {name!r} matches {len(found)} rows of the table of roles, not one")
    return found[0]


def decays(name: str, decay: Literal["matrices", "all"]) -> bool:
    """Return whether weight decay applies to a parameter."""
    return decay == "all" or role(name) != "vector"
