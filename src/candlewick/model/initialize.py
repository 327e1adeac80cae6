"""Initial weights: a table from parameter name to distribution.

    norms                    1
    biases                   0
    embed_tokens, lm_head    normal, std min(0.02, 4 / D)
    o_proj, down_proj        0
    other matrices           normal, std 1 / sqrt(fan_in)

Why. A block that adds nothing at first (zero outputs) lets signal and gradient pass the whole depth unchanged,
and the products inside it keep unit size at any width. So at first the last norm sees the embedding e of the
token itself, scaled to length sqrt(D): with tied weights the token's own logit is D * std, which at std 0.02 is
61 for D = 3072 and gives a first loss of 5.9 ln V. With 4 / D that logit is 4, one of V, and the first loss stays
within 1 % of ln V; untied, logits of size 4 / sqrt(D) do too. Below D = 200 the usual 0.02 is small enough.

Each parameter has its own generator, seeded by the run's seed and its name, and is drawn on the CPU: the weights
do not depend on device, order, or on which parameters a process draws.
"""

import hashlib
import math
import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

Fill = Callable[[Tensor, torch.Generator], object]


def _constant(value: float) -> Fill:
    return lambda tensor, _: tensor.fill_(value)


def _normal(deviation: Callable[[int], float]) -> Fill:
    """Normal numbers; `deviation` takes the length of a row: fan-in of a matrix, width of an embedding."""
    return lambda tensor, generator: tensor.normal_(0.0, deviation(tensor.shape[-1]), generator=generator)


_BLOCK = r"model\.layers\.\d+\."
TABLE: dict[str, Fill] = {
    rf"({_BLOCK}(input|post_attention)_layer|{_BLOCK}self_attn\.[qk]_|model\.)norm\.weight": _constant(1.0),
    rf"{_BLOCK}\w+\.\w+_proj\.bias": _constant(0.0),
    r"model\.embed_tokens\.weight|lm_head\.weight": _normal(lambda width: min(0.02, 4 / width)),
    rf"{_BLOCK}(self_attn\.o|mlp\.down)_proj\.weight": _constant(0.0),
    rf"{_BLOCK}(self_attn\.[qkv]|mlp\.(gate|up))_proj\.weight": _normal(lambda fan_in: 1 / math.sqrt(fan_in)),
}


def draw(name: str, shape: torch.Size, seed: int) -> Tensor:
    """Return the initial value of one parameter, float32 on the CPU. Raises ValueError for an unknown name."""
    fills = [fill for pattern, fill in TABLE.items() if re.fullmatch(pattern, name)]
    if len(fills) != 1:
        raise ValueError(f"parameter {name!r} matches {len(fills)} rows of the initialization table, not one")
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    value = torch.empty(shape, dtype=torch.float32, device="cpu")
    fills[0](value, generator)
    return value


def initialize(model: nn.Module, seed: int) -> None:
    """Give every parameter of a Transformer its initial value, in place."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(draw(name, parameter.shape, seed))
