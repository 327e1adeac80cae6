"""The dynamic loss scale of fp16: gradients too small for half precision are lifted into its range.

    2^24 |                              A float16 below 6e-8 is zero, above 65504 infinite. The loss is multiplied
         |        __      __            by a scale before the backward pass, the gradients are divided by it after.
         |     __|  |  __|  |  __       An overflow halves the scale and skips the update; 200 clean updates in a
    2^15 |____|     |_|     |_|         row double it. So it lives just below what overflows.
         +---------------------- updates

Reference: Micikevicius et al., arXiv:1710.03740 section 3.2. All of it lies on the device, no host waits.
"""

import torch
from torch import Tensor

from candlewick.train.state import TrainState

LEAST, MOST = 1.0, 2.0**24
_CLEAN_STEPS = 200


class LossScale:
    """The scale and the number of clean updates since it last changed, as a run's counters have them."""

    def __init__(self, state: TrainState, device: torch.device) -> None:
        self.value = torch.tensor(state.loss_scale, device=device)
        self.clean_steps = torch.tensor(float(state.loss_scale_clean_steps), device=device)

    def update(self, overflowed: Tensor) -> None:
        """Move the scale after an update; `overflowed` is 1 if anything was not finite, else 0."""
        clean = (self.clean_steps + 1) * (1 - overflowed)
        grows = clean >= _CLEAN_STEPS
        self.value = (self.value * (1 - 0.5 * overflowed + grows.float())).clamp(LEAST, MOST)
        self.clean_steps = clean.where(~grows, 0.0)

    def write_to(self, state: TrainState) -> None:
        """Write the scale and the clean steps into the counters. Waits for the device."""
        state.loss_scale = self.value.item()
        state.loss_scale_clean_steps = round(self.clean_steps.item())
