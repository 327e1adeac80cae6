"""The mean training loss of the updates since the last row of metrics, summed on the device: no host waits.

Its sum is a part of a run's counters, so a run that was interrupted between two rows writes the same figures.
"""

import math

import torch
from torch import Tensor

from candlewick.train.state import TrainState


class MeanLoss:
    """The sum and the number of the losses since the last row; one that is not finite does not count."""

    def __init__(self, state: TrainState, device: torch.device) -> None:
        self._sum = torch.tensor(state.loss_sum, device=device)
        self._count = torch.tensor(float(state.loss_count), device=device)

    def add(self, loss: Tensor) -> None:
        """Add the loss of an update, a scalar in nats."""
        is_finite = torch.isfinite(loss)
        self._sum = self._sum + loss.where(is_finite, 0.0)
        self._count = self._count + is_finite

    def take(self) -> float:
        """Return the mean, and begin anew; not a number if no loss counts. Waits for the device."""
        total, count = self._sum.item(), self._count.item()
        self._sum, self._count = torch.zeros_like(self._sum), torch.zeros_like(self._count)
        return total / count if count else math.nan

    def write_to(self, state: TrainState) -> None:
        """Write sum and number into the counters. Waits for the device."""
        state.loss_sum, state.loss_count = self._sum.item(), round(self._count.item())
