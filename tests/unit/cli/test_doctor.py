"""`doctor` prints the findings for a person or a program, and exits with 4 when one is broken."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from candlewick.cli.main import main
from candlewick.runs.report.doctor import Finding


def test_doctor_prints_the_same_findings_as_text_and_json(capsys: pytest.CaptureFixture[str]):
    assert main(["doctor"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "fix:" not in line]
    assert main(["doctor", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is True
    assert [line.split()[0] for line in lines] == [finding["status"] for finding in answer["findings"]]


def test_doctor_exits_4_for_a_broken_package_and_prints_its_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    def examine(cache: Path) -> Iterator[Finding]:
        yield Finding("rich", "14.0")
        yield Finding("pyarrow", f"not in {cache}", "broken", "pip install pyarrow")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("candlewick.runs.report.doctor.examine", examine)
    assert main(["doctor"]) == 4
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "ok      rich     14.0",
        f"broken  pyarrow  not in {tmp_path}/candlewick",
        "                 fix: pip install pyarrow",
    ]
    assert captured.err == "error: training cannot work here: pyarrow (fix: see the lines marked broken)\n"
    assert main(["doctor", "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["ok"] is False
