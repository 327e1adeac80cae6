"""A config becomes an optimizer: AdamW for everything, or Muon for the matrices and AdamW for the rest.

AdamW is PyTorch's fused one: a single kernel on CUDA, MPS and the CPU, which also skips the update on the device
when it is told that a gradient was not finite. All state exists from the start and is known by the parameter's
name, so a checkpoint is complete at any step and does not depend on the order of parameters:

    <parameter>.exp_avg  .exp_avg_sq  .step  (AdamW)      <parameter>.momentum_buffer  (Muon)
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from candlewick.config import AdamWConfig, MuonConfig
from candlewick.errors import CheckpointError
from candlewick.optim.groups import decays, role
from candlewick.optim.muon import Muon
from candlewick.optim.shard import own_part


class Optimizer:
    """Muon (perhaps) and AdamW behind one set of calls."""

    def __init__(self, muon: Muon | None, adamw: torch.optim.AdamW, names: Mapping[Tensor, str]) -> None:
        self.muon, self.adamw, self.names = muon, adamw, names
        self.set_lr(1.0)

    def set_lr(self, multiplier: float) -> None:
        """Set every learning rate to its peak times `multiplier`."""
        for group in self.adamw.param_groups:
            group["lr"] = group["peak_lr"] * multiplier
        if self.muon is not None:
            self.muon.learning_rate = self.muon.config.learning_rate * multiplier

    def step(self, found_inf: Tensor | None = None) -> None:
        """Update all parameters from their gradients.

        `found_inf` is a float tensor on the device, 1 if any gradient is not finite: then no weight and no state
        changes, and the host does not wait to know it.
        """
        self.adamw.found_inf = found_inf  # pyright: ignore[reportAttributeAccessIssue]
        self.adamw.step()
        if self.muon is not None:
            self.muon.step(found_inf)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.names:
            parameter.grad = None

    def named_state(self) -> dict[str, Tensor]:
        """Return all state tensors by name, as they are: not copies, and complete at any time."""
        state = {
            f"{self.names[parameter]}.{kind}": own_part(tensor)
            for parameter, kinds in self.adamw.state.items()
            for kind, tensor in kinds.items()
        }
        return state if self.muon is None else state | self.muon.state()

    @torch.no_grad()
    def load_named_state(self, saved: Mapping[str, Tensor]) -> None:
        """Take over a state. Raises CheckpointError, before any change, unless names and shapes are the same."""
        state = self.named_state()
        for what, names in (("lacks", state.keys() - saved.keys()), ("has", saved.keys() - state.keys())):
            if names:
                raise CheckpointError(
                    f"the saved optimizer state {what} {len(names)} tensors, {min(names)} for one, "
                    f"{'that this optimizer needs' if what == 'lacks' else 'that this optimizer does not know'}",
                    "go on with the model and optimizer of the config that the checkpoint was made with",
                )
        for name, tensor in state.items():
            if saved[name].shape != tensor.shape:
                raise CheckpointError(
                    f"the saved optimizer state {name} has shape {tuple(saved[name].shape)}, "
                    f"this optimizer needs {tuple(tensor.shape)}",
                    "go on with the model and optimizer of the config that the checkpoint was made with",
                )
        for name, tensor in state.items():
            tensor.copy_(saved[name])


def build_optimizer(model: nn.Module, config: AdamWConfig | MuonConfig) -> Optimizer:
    """Make the optimizer of a Transformer whose weights lie on their device. Clipping is not its business."""
    named = dict(model.named_parameters())
    muon, rate = None, config.learning_rate
    if isinstance(config, MuonConfig):
        matrices = {name: parameter for name, parameter in named.items() if role(name) == "matrix"}
        muon, rate = Muon(matrices, config), config.adam_learning_rate
    rest = [name for name in named if muon is None or role(name) != "matrix"]
    groups = [
        {
            "params": [named[name] for name in rest if decays(name, config.decay) == decayed],
            "weight_decay": config.weight_decay if decayed else 0.0,
            "peak_lr": rate,
        }
        for decayed in (True, False)
    ]
    betas = (config.beta1, config.beta2)
    adamw = torch.optim.AdamW(groups, lr=rate, betas=betas, eps=config.epsilon, fused=True)
    for parameter in (named[name] for name in rest):
        adamw.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return Optimizer(muon, adamw, {parameter: name for name, parameter in named.items()})
