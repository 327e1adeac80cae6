import json
import shutil

import pytest

from candlewick.cli.runs import format_runs
from candlewick.runs.report.table import RunRow

ROWS = [
    RunRow("notes", "runs/notes", "running", 0.0, 12.0, ["notes"], 902_016, 1_200, 20_000, 1.2345),
    RunRow("a-long-name-of-a-run\x1b[31m", "p", "finished", 0.0, 7300.0, ["a", "b"], 1_500_000_000, 9, 9, None),
    RunRow("broken", "p", "damaged", 0.0, 200_000.0, [], problem="config.yaml: a key\nthat is unknown and long"),
]


def test_table_shows_every_column_where_nobody_sees_a_terminal():
    lines = format_runs(ROWS, None)
    assert lines[0].split() == ["name", "state", "bits/byte", "steps", "age", "size", "text"]
    assert lines[1].split() == ["notes", "running", "1.234", "1,200/20,000", "12", "s", "902k", "notes"]
    assert lines[2].split()[1:] == ["finished", "9/9", "2", "h", "1.5B", "a,", "b"]
    assert lines[3].split() == ["broken", "damaged", "2", "d"]
    assert lines[4] == "  config.yaml: a key\N{REPLACEMENT CHARACTER}that is unknown and long"
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("width", [80, 60, 40, 30])
def test_table_fits_the_terminal_and_keeps_name_and_state(width):
    lines = format_runs(ROWS, width)
    assert max(map(len, lines)) <= width
    assert all(name in "".join(lines) for name in ("notes", "running", "finished", "damaged"))
    assert ("bits/byte" in lines[0]) == (width >= 40)


def test_runs_lists_a_folder_and_json_has_all(trained, tmp_path, run_candlewick, monkeypatch):
    shutil.copytree(trained, tmp_path / "runs" / "mine", symlinks=True)
    monkeypatch.chdir(tmp_path)
    out = run_candlewick("runs").out
    assert out.splitlines()[1].split()[:2] == ["mine", "finished"]
    (row,) = json.loads(run_candlewick("runs", "runs/mine", "--json").out)
    assert (row["name"], row["steps"], row["problem"]) == ("mine", 12, None)


def test_runs_of_an_empty_folder_and_of_none(tmp_path, run_candlewick):
    assert run_candlewick("runs", tmp_path).out == f"no run in {tmp_path}\n"
    assert "there is no folder" in run_candlewick("runs", tmp_path / "none", code=2).err
