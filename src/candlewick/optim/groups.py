"""The roles of parameters: a table from name patterns to roles, in which every name matches exactly one row.

matrix      the projections of a block            Muon, if the config is that of Muon
embedding   rows looked up by token               AdamW: a gradient touches few rows, there is no spectrum
head        rows that score a token               AdamW; a tied head is the embedding
vector      norms and biases                      AdamW, no decay: they are scales and offsets, not directions
"""

import re
from collections.abc import Iterable
from typing import Any, get_args

from torch import Tensor

from candlewick.config import OptimizerConfig, Role

ROLES: dict[str, Role] = {
    r"model\.layers\.\d+\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj\.weight": "matrix",
    r"model\.embed_tokens\.weight": "embedding",
    r"lm_head\.weight": "head",
    r"model\.(layers\.\d+\.(self_attn\.[qk]_|(input|post_attention)_layer))?norm\.weight": "vector",
    r"model\.layers\.\d+\.\w+\.\w+_proj\.bias": "vector",
}


def role(name: str) -> Role:
    """Return the role of a parameter. Raises ValueError unless exactly one row of the table matches."""
    roles: list[Role] = [kind for pattern, kind in ROLES.items() if re.fullmatch(pattern, name)]
    if len(roles) != 1:
        raise ValueError(f"parameter {name!r} matches {len(roles)} rows of the table of roles, not one")
    return roles[0]


def param_groups(
    parameters: Iterable[tuple[str, Tensor]], config: OptimizerConfig, peak_lr: float
) -> list[dict[str, Any]]:
    """Return torch's parameter groups, one per role that occurs; each scales `peak_lr` by its role."""
    members: dict[Role, list[Tensor]] = {kind: [] for kind in get_args(Role)}
    for name, parameter in parameters:
        members[role(name)].append(parameter)
    return [
        {
            "params": parameters,
            "peak_lr": peak_lr * config.learning_rate_scales.get(kind, 1.0),
            "weight_decay": config.weight_decay if config.decay == "all" or kind != "vector" else 0.0,
        }
        for kind, parameters in members.items()
        if parameters
    ]
