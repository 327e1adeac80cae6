import pytest
import torch

from candlewick.train.loss_scale import LossScale
from candlewick.train.state import TrainState

CPU = torch.device("cpu")
CLEAN, OVERFLOW = torch.tensor(0.0), torch.tensor(1.0)


def reference(overflows: list[bool], value: float, clean: int) -> tuple[float, int]:
    """The rule in plain Python."""
    for overflowed in overflows:
        clean = 0 if overflowed else clean + 1
        if overflowed:
            value = max(1.0, value / 2)
        elif clean == 200:
            value, clean = min(2.0**24, value * 2), 0
    return value, clean


@pytest.mark.parametrize("start", [(2.0**15, 0), (2.0**24, 150), (1.0, 199)])
@pytest.mark.parametrize("share", [0.0, 0.005, 0.5, 1.0])
def test_loss_scale_follows_its_rule_and_survives_the_round_trip(start, share):
    random = torch.Generator().manual_seed(0)
    overflows = (torch.rand(700, generator=random) < share).tolist()
    state = TrainState(loss_scale=start[0], loss_scale_clean_steps=start[1])
    for part in (overflows[:333], overflows[333:]):
        scale = LossScale(state, CPU)
        for overflowed in part:
            scale.update(OVERFLOW if overflowed else CLEAN)
        scale.write_to(state)
        state = TrainState.from_json(state.to_json())
    assert (state.loss_scale, state.loss_scale_clean_steps) == reference(overflows, *start)


def test_loss_scale_starts_at_two_to_the_fifteenth():
    assert LossScale(TrainState(), CPU).value.item() == 2.0**15


def test_loss_scale_value_in_use_is_not_changed_by_an_update():
    scale = LossScale(TrainState(), CPU)
    used = scale.value
    scale.update(OVERFLOW)
    assert (used.item(), scale.value.item()) == (2.0**15, 2.0**14)


def test_the_scale_lies_on_the_device_of_the_run():
    scale = LossScale(TrainState(), torch.device("meta"))
    assert scale.value.is_meta
    assert scale.clean_steps.is_meta
