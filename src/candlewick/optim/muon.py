"""Muon: each momentum matrix is replaced by the nearest orthogonal one, so that all directions move equally.

    M <- mu M + (1 - mu) G                    momentum
    U <- orthogonalize(mu M + (1 - mu) G)     of Nesterov's momentum: its singular values become about 1
    W <- (1 - lr * decay) W - lr * sqrt(max(1, rows / columns)) U

With `normuon_beta2` each row of U is divided by the root of v <- beta2 v + (1 - beta2) mean(U^2 over the row),
then U is scaled to its previous norm. With `cautious_decay` only the weights decay that have the sign of U.

References: Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
kellerjordan.github.io/posts/muon; NorMuon, arXiv:2510.05491, algorithm 1, with the norm kept as in its authors'
code; cautious weight decay, arXiv:2510.12402. Matrices of one shape are stacked, and so is their state: a step is
a handful of batched products instead of dozens of small ones.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from candlewick.config import MuonConfig
from candlewick.optim.chunks import chunks
from candlewick.optim.groups import is_excluded
from candlewick.optim.orthogonal import coefficients, orthogonalize
from candlewick.optim.shard import local_tensor

_EPSILON = 1e-10


@dataclass(frozen=True, slots=True)
class _Stack:
    """Some matrices of one shape and their state."""

    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    momentum: Tensor  # (n, rows, columns)
    second: Tensor | None  # (n, rows), the second momentum of NorMuon
    weight_decay: float


class Muon:
    """Muon over named matrices, each unsharded (else ValueError) and with a gradient (else RuntimeError)."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: MuonConfig) -> None:
        self.config = config
        self.peak_lr = config.learning_rate * config.learning_rate_scales.get("matrix", 1.0)
        self.learning_rate = self.peak_lr
        self.coefficients = coefficients(config.coefficients, config.newton_schulz_steps)
        shapes: dict[tuple[torch.Size, float], list[str]] = {}
        for name, parameter in parameters.items():
            weight_decay = 0.0 if is_excluded(name, config) else config.weight_decay
            shapes.setdefault((parameter.shape, weight_decay), []).append(name)
        self.stacks: list[_Stack] = []
        for (shape, weight_decay), names in shapes.items():
            for part in chunks([shape.numel()] * len(names)):
                members = tuple(parameters[name] for name in names[part])
                tensors = [local_tensor(parameter.detach()) for parameter in members]
                if tensors[0].shape != shape:
                    raise ValueError(
                        f"{names[0]} is split over ranks: a part of a matrix cannot be orthogonalized"
                    )
                momentum = torch.stack(tensors).zero_()
                second = None if config.normuon_beta2 is None else momentum.new_zeros(momentum.shape[:2])
                self.stacks.append(_Stack(tuple(names[part]), members, momentum, second, weight_decay))

    def state(self) -> dict[str, Tensor]:
        """Return each matrix's momentum (and NorMuon's second one) by name, as views of the state."""
        return {
            f"{name}.{kind}": tensor
            for stack in self.stacks
            for kind, stacked in (("momentum_buffer", stack.momentum), ("second_momentum_buffer", stack.second))
            if stacked is not None
            for name, tensor in zip(stack.names, stacked, strict=True)
        }

    @torch.no_grad()
    def step(self, found_inf: Tensor | None = None) -> None:
        """Update every matrix, unless `found_inf` (0 or 1, on the device) is 1."""
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
        update = orthogonalize(grads.lerp_(stack.momentum, mu), self.coefficients)
        if stack.second is not None and self.config.normuon_beta2 is not None:
            update = normalize_rows(update, stack.second, keep * (1 - self.config.normuon_beta2))
        rows, columns = update.shape[1:]
        update *= keep * (-self.learning_rate * math.sqrt(max(1, rows / columns)))
        shrink = keep * (self.learning_rate * stack.weight_decay)
        for parameter, change in zip(stack.parameters, update, strict=True):
            weight = local_tensor(parameter)
            if self.config.cautious_decay:
                weight.sub_(weight * (weight * change <= 0) * shrink).add_(change)
            else:
                weight.mul_(1 - shrink).add_(change)


def normalize_rows(update: Tensor, second_momentum: Tensor, weight: float | Tensor) -> Tensor:
    """Divide each row of updates (n, rows, columns) by the root of its second momentum; keep the matrix's norm.

    First `second_momentum` (n, rows) becomes its average with the rows' mean squares, which have this `weight`.
    """
    norm = torch.linalg.matrix_norm(update, keepdim=True)
    second_momentum.add_((update.square().mean(-1) - second_momentum) * weight)
    rows = update / (second_momentum.sqrt() + _EPSILON).unsqueeze(-1)
    return rows * (norm / (torch.linalg.matrix_norm(rows, keepdim=True) + _EPSILON))


def _grad(name: str, parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise RuntimeError(f"{name} has no gradient: Muon updates all matrices of a shape together")
    return local_tensor(parameter.grad)
