"""Initial weights: a table from parameter name to distribution.

    embed_tokens, lm_head    normal, standard deviation 0.1
    model.norm               min(1, 40 / D)
    other norms              1
    o_proj, down_proj        0
    other matrices           normal, standard deviation 1 / sqrt(fan_in)
    biases                   0

Blocks whose output projections are zero pass signals and gradients unchanged. The input of the last norm is then
the embedding of the token, and with tied weights the logit of this token is D * std * norm: with the usual std
0.02 and norm 1 it is 61 for D = 3072, and the first loss 5.9 ln V; here it is 4 at any width, and the first loss
about ln V. The common alternative, an embedding of std 4 / D, makes the residual stream small beside the outputs
of the blocks: over 70 to 110 steps on Python source, tied, the loss was 2.09 with std 0.02 and 1.95 with 0.1 at D
= 128 (Muon), 2.25 and 2.19 at D = 384; with AdamW, 2.68 and (std 0.2) 2.32 at D = 128.

Each parameter has its own generator on the CPU, seeded by the run's seed and the parameter's name: the weights do
not depend on the device, the order, or the parameters that a process initializes.
"""

import hashlib
import math
import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

Initializer = Callable[[Tensor, torch.Generator], object]
_EMBEDDING_STD = 0.1
_INITIAL_LOGIT = 4.0


def _constant(value: Callable[[int], float]) -> Initializer:
    """Return an initializer with one value; `value` takes the length of the vector, or of a matrix's rows."""
    return lambda tensor, _: tensor.fill_(value(tensor.shape[-1]))


def _normal(std: Callable[[int], float]) -> Initializer:
    """Return a normal initializer; `std` takes the length of a row: fan-in of a matrix, width of an embedding."""
    return lambda tensor, generator: tensor.normal_(0.0, std(tensor.shape[-1]), generator=generator)


_BLOCK = r"model\.layers\.\d+\."
INITIALIZERS: dict[str, Initializer] = {
    r"model\.embed_tokens\.weight|lm_head\.weight": _normal(lambda _: _EMBEDDING_STD),
    r"model\.norm\.weight": _constant(lambda width: min(1.0, _INITIAL_LOGIT / (_EMBEDDING_STD * width))),
    rf"{_BLOCK}((input|post_attention)_layer|self_attn\.[qk]_)norm\.weight": _constant(lambda _: 1.0),
    rf"{_BLOCK}(self_attn\.o|mlp\.down)_proj\.weight": _constant(lambda _: 0.0),
    rf"{_BLOCK}(self_attn\.[qkv]|mlp\.(gate|up))_proj\.weight": _normal(lambda fan_in: 1 / math.sqrt(fan_in)),
    rf"{_BLOCK}\w+\.\w+_proj\.bias": _constant(lambda _: 0.0),
}


def init_tensor(name: str, shape: torch.Size, seed: int) -> Tensor:
    """Return the initial value of one parameter, float32 on the CPU. Raises ValueError for an unknown name."""
    initializers = [initializer for pattern, initializer in INITIALIZERS.items() if re.fullmatch(pattern, name)]
    if len(initializers) != 1:
        raise ValueError(
            f"parameter {name!r} matches {len(initializers)} rows of the initialization table, not one"
        )
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    value = torch.empty(shape, dtype=torch.float32, device="cpu")
    initializers[0](value, generator)
    return value


def materialize(model: nn.Module, device: torch.device) -> None:
    """Give a model on the meta device memory on another one, with any numbers; no weight is tied any more.

    As `to_empty`, for which torch imports its compiler.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            setattr(module, name, nn.Parameter(empty, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))


def initialize(model: nn.Module, seed: int) -> None:
    """Set every parameter of a Transformer to its initial value. Raises ValueError for an unknown name."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(init_tensor(name, parameter.shape, seed))
