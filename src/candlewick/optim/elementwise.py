"""The optimizers that treat each number of a weight alone: Adam, AdamW, SGD and Lion.

    Adam    G <- G + decay W                            SGD     G <- G + decay W
            M <- beta1 M + (1 - beta1) G                        M <- momentum M + G
            V <- beta2 V + (1 - beta2) G^2                      W <- W - lr M, with Nesterov's
            W <- W - lr (M / (1 - beta1^t))                     momentum W - lr (G + momentum M)
                     / (sqrt(V / (1 - beta2^t)) + eps)
                                                        Lion    U <- sign(beta1 M + (1 - beta1) G)
    AdamW   W <- (1 - lr decay) W, then Adam                    W <- (1 - lr decay) W - lr U
            without decay                                       M <- beta2 M + (1 - beta2) G

References: Kingma and Ba, arXiv:1412.6980; Loshchilov and Hutter, arXiv:1711.05101; Sutskever et al., "On the
importance of initialization and momentum in deep learning", 2013; Chen et al., arXiv:2302.06675, algorithm 2. The
kernels are torch's fused ones. Its optimizer classes import its compiler, which takes longer than all of torch.
"""

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from candlewick.config import AdamConfig, AdamWConfig, LionConfig, MuonConfig, SGDConfig
from candlewick.optim.chunks import chunks
from candlewick.optim.shard import local_tensor

Tensors = list[Tensor]
Config = TypeVar("Config", AdamWConfig | AdamConfig | MuonConfig, SGDConfig, LionConfig)


class Elementwise(Generic[Config]):
    """Updates groups of parameters (`optim.groups`) in place. All state exists from the start."""

    state_names: tuple[str, ...]  # of the tensors of a parameter's shape
    found_inf: Tensor | None = None  # 0 or 1 on the device: with 1 nothing changes

    def __init__(self, groups: Sequence[dict[str, Any]], config: Config) -> None:
        self.param_groups, self.config = [{"lr": config.learning_rate, **group} for group in groups], config
        self.state = {parameter: self._start(parameter) for group in groups for parameter in group["params"]}

    def _start(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return the first state of a parameter."""
        return {name: torch.zeros_like(parameter) for name in self.state_names}

    @torch.no_grad()
    def step(self) -> None:
        """Update all parameters; each must have a gradient."""
        for group in self.param_groups:
            weights = [local_tensor(parameter) for parameter in group["params"]]
            grads = [local_tensor(parameter.grad) for parameter in group["params"]]
            states = [self.state[parameter] for parameter in group["params"]]
            for part in chunks(weight.numel() for weight in weights):
                lists = {name: [local_tensor(state[name]) for state in states[part]] for name in states[0]}
                self._update(group, weights[part], grads[part], lists)

    def _update(self, group: dict[str, Any], weights: Tensors, grads: Tensors, state: dict[str, Tensors]) -> None:
        """Update this rank's part of weights and state, in place."""


class AdamW(Elementwise[AdamWConfig | AdamConfig | MuonConfig]):
    """Adam with decoupled weight decay (arXiv:1711.05101)."""

    state_names = ("exp_avg", "exp_avg_sq")
    kernel = staticmethod(torch._fused_adamw_)

    def _start(self, parameter: Tensor) -> dict[str, Tensor]:
        step = torch.zeros((), dtype=torch.float32, device=parameter.device)
        return {"step": step, **super()._start(parameter)}

    def _update(self, group: dict[str, Any], weights: Tensors, grads: Tensors, state: dict[str, Tensors]) -> None:
        steps, config = state["step"], self.config
        torch._foreach_add_(steps, 1)
        self.kernel(
            *(weights, grads, state["exp_avg"], state["exp_avg_sq"], [], steps),
            lr=group["lr"],
            beta1=config.beta1,
            beta2=config.beta2,
            weight_decay=group["weight_decay"],
            eps=config.epsilon,
            amsgrad=False,
            maximize=False,
            found_inf=self.found_inf,
        )
        if self.found_inf is not None:
            torch._foreach_sub_(steps, [self.found_inf] * len(steps))


class Adam(AdamW):
    """Adam, whose weight decay is a part of the gradient (arXiv:1412.6980)."""

    kernel = staticmethod(torch._fused_adam_)


class SGD(Elementwise[SGDConfig]):
    """Stochastic gradient descent with momentum (Sutskever et al., 2013)."""

    state_names = ("momentum_buffer",)

    def _update(self, group: dict[str, Any], weights: Tensors, grads: Tensors, state: dict[str, Tensors]) -> None:
        torch._fused_sgd_(
            *(weights, grads, state["momentum_buffer"] if self.config.momentum else []),
            lr=group["lr"],
            momentum=self.config.momentum,
            nesterov=self.config.nesterov,
            weight_decay=group["weight_decay"],
            dampening=0.0,
            maximize=False,
            is_first_step=False,
            found_inf=self.found_inf,
        )


class Lion(Elementwise[LionConfig]):
    """Lion (arXiv:2302.06675, algorithm 2)."""

    state_names = ("exp_avg",)

    def _update(self, group: dict[str, Any], weights: Tensors, grads: Tensors, state: dict[str, Tensors]) -> None:
        momenta = state["exp_avg"]
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
