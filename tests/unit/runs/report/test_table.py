import json
import os
import shutil
import subprocess
import sys

import pytest

from candlewick.artifacts.build import hold_folder
from candlewick.errors import ConfigError
from candlewick.runs.report import table
from candlewick.runs.report.table import list_runs


@pytest.fixture
def runs(trained, tmp_path):
    """A folder with a finished run, a stopped one, a damaged one, one without metrics, and something else."""
    folder = tmp_path / "runs"
    for name in ("finished", "stopped", "damaged", "prepared"):
        shutil.copytree(trained, folder / name, symlinks=True)
    shutil.rmtree(folder / "stopped" / "checkpoints" / "step_000000012")
    (folder / "damaged" / "config.yaml").write_text("model: {hidden_sise: 3}\n")
    (folder / "prepared" / "metrics.jsonl").unlink()
    shutil.rmtree(folder / "prepared" / "checkpoints")
    (folder / "else").mkdir()
    (folder / "file").touch()
    for age, name in enumerate(("finished", "stopped", "damaged", "prepared")):
        for path in (folder / name).iterdir():
            os.utime(path, (10**9 - age, 10**9 - age), follow_symlinks=False)
    return folder


def test_runs_are_listed_by_age_with_state_steps_size_and_figure(runs, trained):
    rows = list_runs(runs)
    assert [(row.name, row.state, row.steps, row.total_steps) for row in rows] == [
        ("finished", "finished", 12, 12),
        ("stopped", "stopped", 12, 12),
        ("damaged", "damaged", 0, None),
        ("prepared", "stopped", 0, 12),
    ]
    final = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()][-1]
    assert rows[0].bits_per_byte == final["final/bits_per_byte"]
    assert rows[0].text == rows[2].text
    assert rows[0].parameters == json.loads((trained / "run.json").read_text())["parameters"]
    assert rows[0].age_seconds > 10**8
    assert "hidden_sise" in (rows[2].problem or "")


def test_run_whose_lock_is_held_is_running(runs):
    with hold_folder(runs / "stopped", "wait"), hold_folder(runs / "damaged", "wait"):
        states = {row.name: row.state for row in list_runs(runs)}
    assert (states["stopped"], states["damaged"], states["finished"]) == ("running", "running", "finished")
    assert {row.name: row.state for row in list_runs(runs)}["stopped"] == "stopped"


def test_run_itself_is_listed_and_no_folder_is_an_error(runs):
    assert [row.name for row in list_runs(runs / "finished")] == ["finished"]
    assert list_runs(runs / "else") == []
    with pytest.raises(ConfigError, match="there is no folder"):
        list_runs(runs / "nowhere")


def test_evaluation_before_the_end_of_long_metrics_is_found(runs, monkeypatch):
    whole = list_runs(runs / "finished")[0]
    monkeypatch.setattr(table, "_LAST_BYTES", 20)
    assert list_runs(runs / "finished")[0].bits_per_byte == whole.bits_per_byte


def test_listing_needs_no_torch(runs):
    code = "import sys; from candlewick.cli.main import main; assert main(sys.argv[1:]) == 0"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, "runs", str(runs)], check=True, capture_output=True, timeout=60)
