"""The nearest orthogonal matrix by matrix products alone: an odd polynomial, iterated a few times (Newton-Schulz).

    X <- a X + b (X X^T) X + c (X X^T)^2 X        each singular value s becomes a s + b s^3 + c s^5

quintic        one polynomial for all steps: the steepest at 0 that keeps the values within about 0.7 to 1.2,
               which serves training as well as exactly 1 (kellerjordan.github.io/posts/muon)
polar_express  the best polynomial of each step for values of at least 0.001 (arXiv:2505.16932): they end within
               16 % of 1 after 5 steps, 0.7 % after 6, 0.002 % after 7. All but the last have a margin of 1 % for
               rounding, the first another one for the norm: no value may leave their range

Products are bfloat16 on CUDA and in the matrices' dtype elsewhere.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Quintic = tuple[float, float, float]
_POLAR_EXPRESS: tuple[Quintic, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
_SAFETY = 1.01


def coefficients(kind: Literal["quintic", "polar_express"], steps: int) -> tuple[Quintic, ...]:
    """Return a, b and c of the polynomial of each step."""
    if kind == "quintic":
        return ((3.4445, -4.7750, 2.0315),) * steps
    margins = (_SAFETY**2, *(_SAFETY,) * (len(_POLAR_EXPRESS) - 2), 1.0)
    table = [(a / m, b / m**3, c / m**5) for (a, b, c), m in zip(_POLAR_EXPRESS, margins, strict=True)]
    return (*table, *table[-1:] * steps)[:steps]


def orthogonalize(matrices: Tensor, steps: Sequence[Quintic]) -> Tensor:
    """Bring the singular values of matrices (n, rows, columns) near 1; a zero matrix stays zero."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    if x.is_cuda:
        x = x.bfloat16()
    for a, b, c in steps:
        square = torch.bmm(x, x.mT)  # (n, short, short)
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)  # (n, short, long)
    return (x.mT if tall else x).to(matrices.dtype)
