"""The optimizers that have one momentum per parameter: SGD and Lion.

    SGD     G <- G + decay W                            Lion    U <- sign(beta1 M + (1 - beta1) G)
            M <- momentum M + G                                 W <- (1 - lr decay) W - lr U
            W <- W - lr M, with Nesterov's                      M <- beta2 M + (1 - beta2) G
            momentum W - lr (G + momentum M)

References: Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013; Chen et
al., arXiv:2302.06675, algorithm 2. `torch.optim.SGD` takes no sharded parameters and has no momentum before the
first update; its fused kernel is used here.
"""

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from candlewick.config import LionConfig, SGDConfig
from candlewick.optim.chunks import chunks
from candlewick.optim.shard import local_tensor

Tensors = list[Tensor]
Config = TypeVar("Config", SGDConfig, LionConfig)


class _MomentumOptimizer(torch.optim.Optimizer, Generic[Config]):
    """Updates torch's parameter groups chunk by chunk; the momentum exists from the start."""

    state_name: str  # of the momentum
    found_inf: Tensor | None = None  # 0 or 1 on the device: with 1 nothing changes

    def __init__(self, groups: Iterable[dict[str, Any]], config: Config) -> None:
        super().__init__(groups, {"lr": config.learning_rate})
        self.config = config
        for parameter in (parameter for group in self.param_groups for parameter in group["params"]):
            self.state[parameter][self.state_name] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # there are no closures here
        """Update all parameters; each must have a gradient."""
        for group in self.param_groups:
            parameters = group["params"]
            grads = [local_tensor(parameter.grad) for parameter in parameters]
            momenta = [local_tensor(self.state[parameter][self.state_name]) for parameter in parameters]
            weights = [local_tensor(parameter) for parameter in parameters]
            for part in chunks(weight.numel() for weight in weights):
                self._update(group, weights[part], grads[part], momenta[part])

    def _update(self, group: dict[str, Any], weights: Tensors, grads: Tensors, momenta: Tensors) -> None:
        """Update this rank's part of weights and momenta, in place."""


class SGD(_MomentumOptimizer[SGDConfig]):
    """Stochastic gradient descent with momentum (Sutskever et al., 2013)."""

    state_name = "momentum_buffer"

    def _update(self, group: dict[str, Any], weights: Tensors, grads: Tensors, momenta: Tensors) -> None:
        settings: dict[str, Any] = {"momentum": self.config.momentum, "nesterov": self.config.nesterov}
        settings |= {"lr": group["lr"], "weight_decay": group["weight_decay"], "found_inf": self.found_inf}
        sgd(weights, grads, [*momenta], dampening=0.0, maximize=False, fused=True, **settings)


class Lion(_MomentumOptimizer[LionConfig]):
    """Lion (arXiv:2302.06675, algorithm 2)."""

    state_name = "exp_avg"

    def _update(self, group: dict[str, Any], weights: Tensors, grads: Tensors, momenta: Tensors) -> None:
        keep: float | Tensor = 1.0
        if self.found_inf is not None:
            # 0 * inf is not 0: non-finite gradients are replaced, not only multiplied away
            skip = self.found_inf > 0
            keep = 1.0 - self.found_inf
            grads = [torch.where(skip, old, new) for old, new in zip(momenta, grads, strict=True)]
        updates = torch._foreach_lerp(momenta, grads, 1 - self.config.beta1)
        torch._foreach_sign_(updates)
        torch._foreach_mul_(updates, keep * -group["lr"])
        torch._foreach_mul_(weights, 1 - keep * (group["lr"] * group["weight_decay"]))
        torch._foreach_add_(weights, updates)
        torch._foreach_lerp_(momenta, grads, 1 - self.config.beta2)
