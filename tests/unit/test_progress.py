import io

import pytest
from rich.console import Console

from candlewick import progress
from candlewick.log import setup


def test_elsewhere_than_on_a_terminal_a_line_comes_now_and_then(monkeypatch, capsys):
    now = iter([0.0, 1.0, 20.0, 21.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with progress.bytes_progress("tokens") as report:
        for done in (1, 40_000_000, 50_000_000):
            report(done, 100_000_000)
    assert capsys.readouterr().err == "tokens: 40 of 100 MB, 2.0 MB/s, 30 s left\n"


@pytest.mark.parametrize("done", [0, 50])
def test_a_terminal_gets_a_bar(monkeypatch, done):
    out = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=out, force_terminal=True, width=100))
    with progress.bytes_progress("tokens") as report:
        report(done, 100)
    assert "tokens" in out.getvalue()


@pytest.mark.parametrize(
    ("level", "wanted"), [("debug", True), ("info", True), ("warning", False), ("error", False)]
)
def test_where_only_warnings_are_shown_there_is_no_progress(level, wanted, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=out, force_terminal=True, width=100))
    setup(level)
    assert progress.is_wanted() == wanted
    with progress.bytes_progress("tokens") as report:
        report(1, 2)
    assert bool(out.getvalue()) == wanted
