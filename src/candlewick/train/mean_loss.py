"""The training loss of a row of metrics, gathered on the device: no host waits.

    train/loss        mean over the updates since the last row
    train/loss_ema    E <- E + 0.1 (loss - E) at each update, from the first loss on

Both are a part of a run's counters, so a run that was interrupted between two rows writes the same figures.
"""

import math

import torch
from torch import Tensor

from candlewick.train.state import TrainState

_NEWEST_WEIGHT = 0.1


class MeanLoss:
    """Two means of the losses of a run's updates; one that is not finite does not count."""

    def __init__(self, state: TrainState, device: torch.device) -> None:
        self._sum = torch.tensor(state.loss_sum, device=device)
        self._count = torch.tensor(float(state.loss_count), device=device)
        self._average = torch.tensor(math.nan if state.loss_ema is None else state.loss_ema, device=device)

    def add(self, loss: Tensor) -> None:
        """Add the loss of an update, a scalar in nats."""
        is_finite = torch.isfinite(loss)
        self._sum = self._sum + loss.where(is_finite, 0.0)
        self._count = self._count + is_finite
        average = self._average.where(torch.isfinite(self._average), loss)
        self._average = torch.where(is_finite, average.lerp(loss, _NEWEST_WEIGHT), self._average)

    def take(self) -> dict[str, float]:
        """Return the figures of a row, not numbers if no loss counts, and begin the mean anew. Waits."""
        total, count = self._sum.item(), self._count.item()
        self._sum, self._count = torch.zeros_like(self._sum), torch.zeros_like(self._count)
        mean = total / count if count else math.nan
        return {"train/loss": mean, "train/loss_ema": self._average.item()}

    def write_to(self, state: TrainState) -> None:
        """Write sum, number and average into the counters. Waits for the device."""
        state.loss_sum, state.loss_count = self._sum.item(), round(self._count.item())
        average = self._average.item()
        state.loss_ema = average if math.isfinite(average) else None
