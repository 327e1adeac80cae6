"""Muon: momentum whose matrix is replaced by the nearest orthogonal one, so that all directions move equally.

    M <- mu M + (1 - mu) G                    momentum
    U <- orthogonalize(mu M + (1 - mu) G)     Nesterov's look ahead, singular values brought near 1
    W <- (1 - lr * decay) W - lr * sqrt(max(1, rows / columns)) U

Reference: Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
kellerjordan.github.io/posts/muon. The quintic's coefficients are that post's: the steepest at 0 that keep the
singular values within about 0.7 to 1.2, which serves as well as exactly 1.

Matrices of one shape are one stack: the momentum lives in it, and each step is a handful of batched products
instead of dozens of small ones. Products are bfloat16 on CUDA and in the gradients' dtype elsewhere.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from candlewick.config import MuonConfig
from candlewick.optim.shard import own_part

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, steps: int) -> Tensor:
    """Bring the singular values of matrices (n, rows, columns) near 1 by `steps` Newton-Schulz iterations.

    Each matrix is first divided by its Frobenius norm, so that no singular value exceeds 1; then
    X <- a X + (b S + c S S) X with S = X X^T, on the shorter side. A zero matrix stays zero.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    if x.is_cuda:
        x = x.bfloat16()
    for _ in range(steps):
        square = torch.bmm(x, x.mT)  # (n, short, short)
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)  # (n, short, long)
    return (x.mT if tall else x).to(matrices.dtype)


@dataclass(frozen=True, slots=True)
class _Stack:
    """The matrices of one shape and their momentum."""

    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    momentum: Tensor  # (n, rows, columns)


class Muon:
    """Muon over named matrices, whole on this rank. Every matrix needs a gradient at every step."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: MuonConfig) -> None:
        self.config, self.learning_rate = config, config.learning_rate
        shapes: dict[torch.Size, list[str]] = {}
        for name, parameter in parameters.items():
            shapes.setdefault(parameter.shape, []).append(name)
        self.stacks: list[_Stack] = []
        for names in shapes.values():
            members = tuple(parameters[name] for name in names)
            own = [own_part(parameter.detach()) for parameter in members]
            if own[0].shape != members[0].shape:
                raise ValueError(f"{names[0]} is split over ranks: a part of a matrix cannot be orthogonalized")
            self.stacks.append(_Stack(tuple(names), members, torch.stack(own).zero_()))

    def state(self) -> dict[str, Tensor]:
        """Return each matrix's momentum by name, as views: writing to them sets the state."""
        return {
            f"{name}.momentum_buffer": momentum
            for stack in self.stacks
            for name, momentum in zip(stack.names, stack.momentum, strict=True)
        }

    @torch.no_grad()
    def step(self, found_inf: Tensor | None = None) -> None:
        """Update every matrix. If `found_inf` (0 or 1, on the device) is 1 nothing changes."""
        for stack in self.stacks:
            self._step_stack(stack, found_inf)

    def _step_stack(self, stack: _Stack, found_inf: Tensor | None) -> None:
        mu = self.config.momentum
        grads = torch.stack([_grad(name, p) for name, p in zip(stack.names, stack.parameters, strict=True)])
        keep: float | Tensor = 1.0
        if found_inf is not None:
            # 0 * inf is not 0: non-finite gradients are replaced, not only multiplied away
            keep = 1.0 - found_inf
            grads = torch.where(found_inf > 0, stack.momentum, grads)
        stack.momentum.lerp_(grads, 1 - mu)
        update = orthogonalize(grads.lerp_(stack.momentum, mu), self.config.newton_schulz_steps)
        rows, columns = update.shape[1:]
        update *= keep * (-self.learning_rate * math.sqrt(max(1, rows / columns)))
        shrink = 1 - keep * (self.learning_rate * self.config.weight_decay)
        for parameter, change in zip(stack.parameters, update, strict=True):
            own_part(parameter).mul_(shrink).add_(change)


def _grad(name: str, parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise RuntimeError(f"{name} has no gradient: Muon updates all matrices of a shape together")
    return own_part(parameter.grad)
