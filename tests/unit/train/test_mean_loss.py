import math

import pytest
import torch

from candlewick.train.mean_loss import MeanLoss
from candlewick.train.state import TrainState

CPU = torch.device("cpu")


def test_mean_is_that_of_the_finite_losses_since_the_last_row():
    losses = MeanLoss(TrainState(), CPU)
    assert all(math.isnan(figure) for figure in losses.take().values())
    for loss in (1.0, math.nan, 2.5, math.inf):
        losses.add(torch.tensor(loss))
    assert losses.take()["train/loss"] == 1.75
    losses.add(torch.tensor(0.1))
    assert losses.take()["train/loss"] == torch.tensor(0.1).item()  # the mean of one is that one, to the last bit


def test_average_forgets_a_tenth_at_each_finite_loss_and_is_not_begun_anew():
    losses, expected = MeanLoss(TrainState(), CPU), 8.0
    for loss in (math.nan, 8.0, 3.0, math.inf, 2.0, 2.5):
        losses.add(torch.tensor(loss))
        if math.isfinite(loss):
            expected = 0.9 * expected + 0.1 * loss
            assert losses.take()["train/loss_ema"] == pytest.approx(expected, rel=1e-6)
    assert losses.take()["train/loss_ema"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("saved_after", range(8))
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
