import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from candlewick.cli.main import main
from candlewick.config.load import load_config
from candlewick.train.monitor.trackers import read_metrics

SMALL = ["--steps", "4", "--hidden", "32", "--layers", "1", "--override", "data.num_workers=1"]
SMALL += ["--override", "runtime.logging.enable_stdout=false", "--override", "runtime.sample.max_new_tokens=8"]


@pytest.fixture
def demo(text_dir, tmp_path, monkeypatch, run_candlewick):
    """Run the demo on a text, as small as it gets; return what is printed."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: run_candlewick("demo", text_dir, *SMALL, *words).out


def test_demo_tells_what_it_does_and_shows_what_the_model_wrote_over_time(demo, text_dir, tmp_path):
    out = demo("--run-dir", "runs/mine")
    lines = out.splitlines()
    assert lines[0] == f"text   {text_dir}"
    assert re.fullmatch(r"model  \d+\.\d million parameters, 4 updates, on \d+ cores", lines[1])
    assert lines[2] == "run    runs/mine"
    table = out[out.index("bits per byte  what it writes") :]
    steps = [int(step) for step in re.findall(r"^ {4,6}(\d+) +\d:\d\d +\d\.\d{3}  ", table, re.MULTILINE)]
    assert steps == sorted(steps)
    assert steps[-1] == 4
    assert "loss\n" in table
    assert (tmp_path / "runs" / "mine" / "training.yaml").is_file()
    samples = [row["sample/0"] for row in read_metrics(tmp_path / "runs/mine/metrics.jsonl") if "sample/0" in row]
    assert len({" ".join(sample.split()[:3]) for sample in samples}) == 1, "the same words of a held-out text"


def test_commands_that_the_demo_prints_work(demo, tmp_path, capsys):
    commands = re.findall(
        r"^  .*candlewick ((?:generate|chat|demo) .*?)(?: +#.*)?$", demo("--run-dir", "runs/mine"), re.MULTILINE
    )
    chat, generate, *_ = commands
    assert chat == "chat runs/mine"
    assert main([*generate.split(), "--max-new-tokens", "3"]) == 0
    assert (tmp_path / "runs" / "mine" / "report.html").is_file()
    assert "demo YOUR_TEXT.txt" in commands


def test_run_is_named_after_its_text_and_found_again(demo, text_dir, tmp_path):
    assert "new run in" in demo()
    assert f"runs/{text_dir.stem} is finished: 4 steps; --steps 8 trains it longer" in demo()


def test_finished_run_goes_on_from_the_checkpoint_before_its_decay(demo, tmp_path, capsys):
    demo("--run-dir", "a")
    out = demo("--run-dir", "a", "--steps", "12")
    assert "going on in a from step 1, before its learning rate fell" in out
    assert read_metrics(tmp_path / "a" / "metrics.jsonl")[-1]["step"] == 12
    assert main(["demo", "--run-dir", "a", "--steps", "3"]) == 2
    assert "a was trained for 12 steps already (fix: give a larger --steps" in capsys.readouterr().err


def test_demo_json_has_the_result(demo, tmp_path):
    result = json.loads(demo("--json", "--run-dir", "mine"))
    assert result["run_dir"] == str(tmp_path / "mine")
    assert result["steps"] == 4
    assert result["bits_per_byte"] == result["stages"][-1]["bits_per_byte"]


def test_sizes_are_flags(demo, tmp_path):
    demo("--size", "tiny", "--run-dir", "a")  # --hidden and --layers are given too, and win
    assert load_config(tmp_path / "a" / "config.yaml").model.hidden_size == 32


def test_first_line_comes_before_torch_and_the_text(tmp_path):
    code = (
        "import sys, candlewick.runs.demo as demo\n"
        "demo.run_demo = lambda *a, **k: sys.exit(print('torch' in sys.modules) or 0)\n"
        "from candlewick.cli.main import main\nmain(['demo', 'x.txt'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.startswith("text   ")
    assert Path(done.stdout.splitlines()[0].split()[1]).name == "x.txt"
    assert done.stdout.splitlines()[-1] == "False"


def test_demo_of_stories_shows_the_floor_of_what_is_held_out(tmp_path, monkeypatch, run_candlewick):
    monkeypatch.chdir(tmp_path)
    words = ["stories://400", *SMALL, "--vocab-size", "600", "--override", "data.validation_fraction=0.1"]
    out = run_candlewick("demo", *words, "--run-dir", "a").out
    (floor,) = re.findall(
        r"^ +(\d\.\d{3})  the least that any model can reach on these stories$", out, re.MULTILINE
    )
    assert 0.4 < float(floor) < 0.5


def test_run_that_used_its_text_up_is_not_trained_again_for_more_seconds(
    text_dir, tmp_path, monkeypatch, run_candlewick
):
    monkeypatch.chdir(tmp_path)
    words = [text_dir, *SMALL[2:], "--run-dir", "a", "--override", "data.max_repetitions=0.2"]
    before = run_candlewick("demo", *words, "--seconds", "1000").out
    assert "trains it longer" not in before
    steps = read_metrics(tmp_path / "a" / "metrics.jsonl")[-1]["step"]
    out = run_candlewick("demo", *words, "--seconds", "2000").out
    assert "a is finished: its text was read 0.2 times (data.max_repetitions); give it more text" in out
    assert read_metrics(tmp_path / "a" / "metrics.jsonl")[-1]["step"] == steps
    assert not list((tmp_path / "a" / "checkpoints").glob("*rejected*"))
