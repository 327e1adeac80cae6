import json

import pytest

SMALL = [
    *("--override", "scheduler.total_seconds=null"),
    *("--override", "scheduler.total_steps=2"),
    *("--override", "model.hidden_size=32"),
    *("--override", "model.num_layers=1"),
    *("--override", "runtime.logging.enable_stdout=false"),
    *("--override", "data.num_workers=1"),
]


@pytest.fixture
def demo(text_dir, tmp_path, monkeypatch, run_candlewick):
    """Run the demo on a text, as small as it gets; return what is printed."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: run_candlewick("demo", text_dir, *SMALL, *words).out


def test_demo_trains_samples_and_prints_the_next_commands(demo, tmp_path):
    out = demo()
    assert (tmp_path / "runs" / "demo" / "training.yaml").is_file()
    assert "the model writes:" in out
    assert "  candlewick generate runs/demo 'def main('\n" in out
    assert "  candlewick eval runs/demo\n" in out
    assert demo().count("reused, up to date") == 5


def test_demo_json_has_the_result(demo, tmp_path):
    result = json.loads(demo("--json", "--run-dir", "mine"))
    assert result["run_dir"] == str(tmp_path / "mine")
