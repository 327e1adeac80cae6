import json

import pytest
import torch
from tests.prepared import build_trainer

from candlewick.checkpoint.save import weights_of


@pytest.fixture
def components(tiny, tmp_path):
    """The objects of a run that writes its weights' sum as a sample."""
    trainer = build_trainer(tiny(), tmp_path, sampler=lambda model: [("", str(model.lm_head.weight.sum().item()))])
    yield trainer.components
    trainer.components.loader.close()
    with trainer.components.reporter.running(trainer.state):
        pass


def test_snapshot_holds_the_present_weights_and_state(components):
    components.state.step = 3
    snapshot = components.snapshot()
    weights = weights_of(components.objective.model)
    assert snapshot.weights.keys() == weights.keys()
    assert all(torch.equal(snapshot.weights[name], tensor) for name, tensor in weights.items())
    assert (snapshot.step, snapshot.state["counters"]["step"]) == (3, 3)
    assert snapshot.inputs == {
        "tokens": components.plan.data.train[0].dataset_id,
        "tokenizer": components.plan.tokenizer.sha256,
    }
    json.dumps(snapshot.state, allow_nan=False)


def test_evaluate_and_sample_leave_the_model_in_training(components):
    loss = components.evaluate(1)["eval/loss"]
    (prompt, text), *rest = components.sample()
    assert (prompt, rest) == ("", [])
    assert float(text) == pytest.approx(components.objective.model.lm_head.weight.sum().item())
    assert components.objective.training
    assert components.evaluate(1)["eval/loss"] == loss
