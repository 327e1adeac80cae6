"""The exponential moving average of the weights: a run's noise averaged out, without a lower learning rate.

    A <- decay A + (1 - decay) W        after every update, from A = W at the start

References: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; with decay,
Tarvainen and Valpola, arXiv:1703.01780. It takes many times 1 / (1 - decay) updates, or it holds the first.
"""

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

from collections.abc import Mapping

import torch
from torch import Tensor

from candlewick.optim.chunks import chunks
from candlewick.optim.shard import local_tensor


class Average:
    """The averages of named parameters: `averages` and `last`, the newest weights, wherever they lie."""

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.last = dict(parameters)
        self.averages = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, found_inf: Tensor | None) -> None:
        """Take the newest weights in, unless `found_inf` (0 or 1, on the device) is 1."""
        averages, last = zip(*self._pairs(), strict=True)
        for part in chunks(average.numel() for average in averages):
            changes = torch._foreach_sub(last[part], averages[part])
            torch._foreach_mul_(changes, 1 - self.decay)
            if found_inf is not None:
                torch._foreach_mul_(changes, 1.0 - found_inf)
            torch._foreach_add_(averages[part], changes)
            del changes  # before the next ones are made

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the values, one parameter at a time so that little memory is needed; again: back."""
        for average, last in self._pairs():
            held = average.clone()
            average.copy_(last)
            last.copy_(held)
        self.averages, self.last = self.last, self.averages

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        return [(local_tensor(average), local_tensor(self.last[name])) for name, average in self.averages.items()]
