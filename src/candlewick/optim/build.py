"""Build the optimizer of a config: an elementwise one, and Muon for the matrices if the config asks for it.

Each skips the update on the device if `found_inf` says that a gradient is not finite. All state exists from the
start and has the parameter's name, so a checkpoint is complete at any step:

    <parameter>.exp_avg  .exp_avg_sq  .step     AdamW, Adam      <parameter>.momentum_buffer          SGD, Muon
               .exp_avg                         Lion                        .second_momentum_buffer   NorMuon
               .last                            the newest weights, when the model's file holds averages
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from candlewick.config import AdamConfig, AdamWConfig, LionConfig, MuonConfig, OptimizerConfig, Section, SGDConfig
from candlewick.errors import CheckpointError
from candlewick.optim.average import ExponentialMovingAverage
from candlewick.optim.elementwise import SGD, Adam, AdamW, Elementwise, Lion
from candlewick.optim.groups import param_groups, report_excluded, role
from candlewick.optim.muon import Muon
from candlewick.optim.shard import local_tensor


@dataclass(frozen=True, slots=True)
class Optimizer:
    """The optimizers of a model and the average of its weights, behind one set of calls."""

    elementwise: Elementwise[Any]
    muon: Muon | None
    average: ExponentialMovingAverage | None
    names: Mapping[Tensor, str]

    def set_lr(self, multiplier: float) -> None:
        """Set every learning rate to its peak times `multiplier`."""
        for group in self.elementwise.param_groups:
            group["lr"] = group["peak_lr"] * multiplier
        if self.muon is not None:
            self.muon.learning_rate = self.muon.peak_lr * multiplier

    def step(self, found_inf: Tensor | None = None) -> None:
        """Update all parameters from their gradients, then their averages.

        `found_inf` is a float tensor on the device, 1 if any gradient is not finite: then nothing changes.
        """
        self.elementwise.found_inf = found_inf
        self.elementwise.step()
        if self.muon is not None:
            self.muon.step(found_inf)
        if self.average is not None:
            self.average.update(found_inf)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.names:
            parameter.grad = None

    @contextmanager
    def average_parameters(self) -> Generator[None]:
        """Exchange the sharded parameters with their averages, if there are any, while the block runs."""
        if self.average is not None:
            self.average.swap()
        try:
            yield
        finally:
            if self.average is not None:
                self.average.swap()

    def named_state(self) -> dict[str, Tensor]:
        """Return this rank's part of all state tensors by name, not copied."""
        state = {
            f"{self.names[parameter]}.{kind}": local_tensor(tensor)
            for parameter, kinds in self.elementwise.state.items()
            for kind, tensor in kinds.items()
        }
        if self.muon is not None:
            state |= self.muon.state()
        if self.average is not None:
            state |= {f"{name}.last": local_tensor(last.detach()) for name, last in self.average.last.items()}
        return state

    @torch.no_grad()
    def load_named_state(self, saved: Mapping[str, Tensor]) -> None:
        """Copy a saved state into this one. Raises CheckpointError, before any change, for other names or shapes.

        With `ema_decay` the model's parameters must be the averages before; they are the newest weights after.
        """
        state, problem = self.named_state(), None
        if missing := state.keys() - saved.keys():
            problem = f"lacks {len(missing)} tensors, {min(missing)} for one, that this optimizer needs"
        elif unknown := saved.keys() - state.keys():
            problem = f"has {len(unknown)} tensors, {min(unknown)} for one, that this optimizer does not know"
        elif other := [name for name in state if saved[name].shape != state[name].shape]:
            shape, needed = (tuple(tensors[other[0]].shape) for tensors in (saved, state))
            problem = f"has shape {shape}, this optimizer needs {needed}, for {other[0]}"
        if problem is not None:
            fix = "go on with the model and optimizer of the config that the checkpoint was made with"
            raise CheckpointError(f"the saved optimizer state {problem}", fix)
        if self.average is not None:
            for name, average in self.average.averages.items():
                average.copy_(self.average.last[name])
        for name, tensor in state.items():
            tensor.copy_(saved[name])


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """Build the optimizer of a Transformer with its weights. Raises ConfigError for patterns of names."""
    parameters = dict(model.named_parameters())
    report_excluded(parameters.keys(), config)
    muon, others, peak_lr = None, parameters, config.learning_rate
    if isinstance(config, MuonConfig):
        matrices = {name: parameter for name, parameter in parameters.items() if role(name) == "matrix"}
        muon, peak_lr = Muon(matrices, config), config.adam_learning_rate
        others = {name: parameter for name, parameter in parameters.items() if name not in matrices}
    elementwise = OPTIMIZERS[type(config)](param_groups(others.items(), config, peak_lr), config)
    average = None if config.ema_decay is None else ExponentialMovingAverage(parameters, config.ema_decay)
    optimizer = Optimizer(elementwise, muon, average, {tensor: name for name, tensor in parameters.items()})
    optimizer.set_lr(1.0)
    return optimizer


OPTIMIZERS: dict[type[Section], Callable[[list[dict[str, Any]], Any], Elementwise[Any]]] = {
    AdamWConfig: AdamW,
    AdamConfig: Adam,
    SGDConfig: SGD,
    LionConfig: Lion,
    MuonConfig: AdamW,  # of all parameters but the matrices
}
"""The elementwise optimizer of each config, from parameter groups. It skips an update if its `found_inf` is 1."""
