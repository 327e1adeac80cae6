import math

import pytest
import torch

from candlewick.train.mean_loss import MeanLoss
from candlewick.train.state import TrainState

CPU = torch.device("cpu")


def test_mean_is_that_of_the_finite_losses_since_the_last_row():
    losses = MeanLoss(TrainState(), CPU)
    assert math.isnan(losses.take())
    for loss in (1.0, math.nan, 2.5, math.inf):
        losses.add(torch.tensor(loss))
    assert losses.take() == 1.75
    losses.add(torch.tensor(0.1))
    assert losses.take() == torch.tensor(0.1).item()  # the mean of one is that one, to the last bit


@pytest.mark.parametrize("saved_after", range(1, 8))
def test_mean_of_an_interrupted_run_is_that_of_an_undisturbed_one(saved_after):
    values = torch.rand(8, generator=torch.Generator().manual_seed(0)) * 9
    whole, state = MeanLoss(TrainState(), CPU), TrainState()
    parts = MeanLoss(state, CPU)
    for number, loss in enumerate(values):
        if number == saved_after:
            parts.write_to(state)
            parts = MeanLoss(TrainState.from_json(state.to_json()), CPU)
        whole.add(loss)
        parts.add(loss)
    assert whole.take() == parts.take()
