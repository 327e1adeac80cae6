import pytest
from tests.prepared import prepare

from candlewick.runs.demo import fit_to_machine, introduce


@pytest.fixture
def timed(tiny, text_dir, monkeypatch):
    """Return a prepared run with a time budget on a machine of so many seconds per update, by width."""

    def make(speeds: dict[int, float], hidden: int = 256):
        model = {"hidden_size": hidden, "num_attention_heads": hidden // 32, "head_dim": 32}
        prepared = prepare(tiny(model=model, scheduler={"total_seconds": 100.0, "total_steps": None}))
        monkeypatch.setattr(
            "candlewick.train.speed.seconds_per_update", lambda config, _: speeds[config.model.hidden_size]
        )
        lines: list[str] = []
        return fit_to_machine(prepared, lines.append).config.model, lines

    return make


def test_slow_machine_gets_the_largest_model_that_makes_enough_updates(timed):
    model, lines = timed({256: 1.0, 128: 0.1, 64: 0.01})
    assert model.hidden_size == 128
    assert (model.num_layers, model.num_attention_heads, model.head_dim) == (2, 4, 32)
    assert lines == ["this machine would make some 100 updates in 100 s, so the model is smaller: 2 layers of 128"]
    assert timed({256: 1.0, 128: 1.0, 64: 1.0})[0].hidden_size == 64


def test_fast_machine_keeps_the_model(timed):
    model, lines = timed({256: 0.1})
    assert model.hidden_size == 256
    assert not lines


def test_run_with_a_number_of_updates_keeps_its_model(tiny, text_dir):
    prepared = prepare(tiny(scheduler={"total_steps": 2, "warmup_steps": 1}))
    assert fit_to_machine(prepared, print) is prepared


def test_introduction_says_text_size_length_and_place(tiny, text_dir, tmp_path, monkeypatch):
    text = introduce(tiny(scheduler={"total_seconds": 90.0, "total_steps": None}), tmp_path).splitlines()
    assert text[0] == f"text   {text_dir}"
    monkeypatch.chdir(text_dir.parent)
    assert introduce(tiny(), tmp_path).startswith(f"text   {text_dir.name}\n")
    assert " million parameters, 90 seconds of training, on " in text[1]
    assert text[2] == f"run    {tmp_path}"
