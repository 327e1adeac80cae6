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


def test_the_demo_goes_all_the_way_and_says_what_to_try_next(demo, tmp_path):
    out = demo()
    assert (tmp_path / "runs" / "demo" / "training.yaml").is_file()
    assert "the model writes:" in out
    assert "  candlewick generate runs/demo 'def main('\n" in out
    assert "  candlewick eval runs/demo\n" in out
    assert demo().count("reused, up to date") == 5


def test_the_result_for_a_program(demo, tmp_path):
    result = json.loads(demo("--json", "--run-dir", "mine"))
    assert result["run_dir"] == str(tmp_path / "mine")
