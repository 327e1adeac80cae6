import pytest

from candlewick.train import speed


@pytest.mark.parametrize(("rows", "passes"), [(4, 1), (32, 8), (None, 1)])
def test_measured_updates_are_those_of_the_run(tiny, monkeypatch, rows, passes):
    seen, real = [], speed.train_step

    def step(objective, optimizer, batch, norm):
        seen.append([tuple(b.tokens.shape) for b in batch.micro_batches])
        return real(objective, optimizer, batch, norm)

    monkeypatch.setattr(speed, "train_step", step)
    config = tiny(data={**tiny().data.model_dump(mode="json"), "global_batch_size": rows, "micro_batch_size": 4})
    assert speed.seconds_per_update(config, 320) > 0
    assert len(seen) > 2
    assert all(shapes == [(4, config.sequence_length)] * passes for shapes in seen)
