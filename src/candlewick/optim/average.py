"""The exponential moving average of the weights, which has less noise than the weights themselves.

    A <- decay A + (1 - decay) W        after every update, from A = W at the start

References: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; with decay,
Tarvainen and Valpola, arXiv:1703.01780. With few times 1 / (1 - decay) updates it contains the initial weights.
"""

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

from collections.abc import Mapping

import torch
from torch import Tensor

from candlewick.optim.chunks import chunks
from candlewick.optim.shard import local_tensor


class ExponentialMovingAverage:
    """The averages of named parameters: `averages`; and the newest weights: `last`."""

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.last = dict(parameters)
        self.averages = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, found_inf: Tensor | None) -> None:
        """Move the averages towards the newest weights, unless `found_inf` (0 or 1, on the device) is 1."""
        averages, last = zip(*self._pairs(), strict=True)
        for part in chunks(average.numel() for average in averages):
            changes = torch._foreach_sub(last[part], averages[part])
            torch._foreach_mul_(changes, 1 - self.decay)
            if found_inf is not None:
                torch._foreach_mul_(changes, 1.0 - found_inf)
            torch._foreach_add_(averages[part], changes)
            del changes  # before those of the next chunk are allocated

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the values of averages and newest weights, one parameter at a time, to need little memory."""
        for average, last in self._pairs():
            copy = average.clone()
            average.copy_(last)
            last.copy_(copy)
        self.averages, self.last = self.last, self.averages

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        return [(local_tensor(average), local_tensor(self.last[name])) for name, average in self.averages.items()]
