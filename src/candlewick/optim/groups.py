"""The roles of parameters: a table from name patterns to roles, in which every name matches exactly one row.

matrix      the projections of a block            Muon, if the config is that of Muon
embedding   rows looked up by token               AdamW: a gradient touches few rows, there is no spectrum
head        rows that score a token               AdamW; a tied head is the embedding
vector      norms and biases                      AdamW, no decay: they are scales and offsets, not directions

Which of them decay: all but vectors, or all, and never what a pattern of `weight_decay_exclude` matches.
"""

import logging
import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, get_args

from torch import Tensor

from candlewick.config import OptimizerConfig, Role
from candlewick.errors import ConfigError

logger = logging.getLogger(__name__)

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


def is_excluded(name: str, config: OptimizerConfig) -> bool:
    """Return whether a pattern of `weight_decay_exclude` matches the name of a parameter."""
    return any(fnmatchcase(name, pattern) for pattern in config.weight_decay_exclude)


def report_excluded(names: Collection[str], config: OptimizerConfig) -> None:
    """Log how many names each pattern of `weight_decay_exclude` matches. Raises ConfigError for one with none."""
    for pattern in config.weight_decay_exclude:
        matching, containing = ([n for n in names if fnmatchcase(n, p)] for p in (pattern, f"*{pattern}*"))
        if not matching:
            near = [f"*{pattern}*"] if containing else get_close_matches(pattern, names, 3)
            raise ConfigError(
                f"optimizer.weight_decay_exclude: {pattern!r} matches the name of no parameter",
                f"did you mean {' or '.join(map(repr, near or list(names)[:3]))}?",
            )
        logger.info(
            "optimizer.weight_decay_exclude: %s matches %d of %d parameters, which do not decay: %s%s",
            *(pattern, len(matching), len(names), matching[0], ", ..." * (len(matching) > 1)),
        )


def param_groups(
    parameters: Iterable[tuple[str, Tensor]], config: OptimizerConfig, peak_lr: float
) -> list[dict[str, Any]]:
    """Return torch's parameter groups by role and decay, if any; each scales `peak_lr` by its role."""
    members: dict[tuple[Role, bool], list[Tensor]] = {
        (kind, decays): [] for kind in get_args(Role) for decays in (True, False)
    }
    for name, parameter in parameters:
        kind = role(name)
        decays = (config.decay == "all" or kind != "vector") and not is_excluded(name, config)
        members[kind, decays].append(parameter)
    return [
        {
            "params": parameters,
            "peak_lr": peak_lr * config.learning_rate_scales.get(kind, 1.0),
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (kind, decays), parameters in members.items()
        if parameters
    ]
