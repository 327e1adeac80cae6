import io
import logging
import sys
from pathlib import Path

import pytest
import rich.console
from rich.console import Console

from candlewick import terminal


def test_log_records_go_to_standard_error_with_level_and_module(capsys):
    terminal.setup()
    logging.getLogger("candlewick.data.rows.loader").warning("slow by %d %%", 3)
    assert capsys.readouterr().err == "WARNING candlewick.data.rows.loader: slow by 3 %\n"


def test_debug_records_go_to_the_log_file_only(tmp_path, capsys):
    terminal.setup()
    with terminal.log_file(tmp_path / "log.txt"):
        logging.getLogger("candlewick").debug("detail")
    assert capsys.readouterr().err == ""
    assert "DEBUG candlewick: detail" in (tmp_path / "log.txt").read_text()


def test_setup_twice_does_not_duplicate_log_lines(capsys):
    terminal.setup()
    terminal.setup()
    logging.getLogger("candlewick").info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_log_records_go_to_the_log_file_and_standard_error(tmp_path, capsys):
    terminal.setup()
    with terminal.log_file(tmp_path / "run.log"):
        logging.getLogger("candlewick.train").info("step 1, é")
    logging.getLogger("candlewick.train").info("step 2")
    lines = (tmp_path / "run.log").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("INFO candlewick.train: step 1, é")
    assert "step 2" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_log_file_on_a_full_disk_gives_one_warning_line_per_failure(capsys):
    terminal.setup()
    with terminal.log_file(Path("/dev/full")):
        logging.getLogger("candlewick").info("step 1")
    assert capsys.readouterr().err.splitlines() == [
        "INFO candlewick: step 1",
        "WARNING /dev/full cannot be written: [Errno 28] No space left on device",
    ]


def test_log_records_follow_a_redirected_standard_error(monkeypatch):
    terminal.setup()
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logging.getLogger("candlewick").info("to the new one")
    assert stream.getvalue() == "INFO candlewick: to the new one\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_log_file_on_a_full_disk_warns_and_raises_nothing(capsys):
    terminal.setup()
    with terminal.log_file(Path("/dev/full")):
        logging.getLogger("candlewick").info("a line")
    assert "WARNING /dev/full cannot be written: [Errno 28]" in capsys.readouterr().err


@pytest.mark.parametrize(("level", "shown"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_terminal_shows_records_from_its_level_and_the_file_all(level, shown, tmp_path, capsys):
    terminal.setup(level)
    with terminal.log_file(tmp_path / "log.txt"):
        for name in ("debug", "info", "warning", "error"):
            getattr(logging.getLogger("candlewick"), name)("a line")
    assert capsys.readouterr().err.count("a line") == shown
    assert (tmp_path / "log.txt").read_text().count("a line") == 4


def test_progress_outside_a_terminal_prints_occasional_lines(monkeypatch, capsys):
    now = iter([0.0, 1.0, 20.0, 21.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(now))
    with terminal.bytes_progress("tokens") as report:
        for done in (1, 40_000_000, 50_000_000):
            report(done, 100_000_000)
    assert capsys.readouterr().err == "tokens: 40 of 100 MB, 2.0 MB/s, 30 s left\n"


@pytest.mark.parametrize("done", [0, 50])
def test_progress_on_a_terminal_is_a_bar(monkeypatch, done):
    out = io.StringIO()
    monkeypatch.setattr(rich.console, "Console", lambda **_: Console(file=out, force_terminal=True, width=100))
    with terminal.bytes_progress("tokens") as report:
        report(done, 100)
    assert "tokens" in out.getvalue()


@pytest.mark.parametrize(
    ("level", "wanted"), [("debug", True), ("info", True), ("warning", False), ("error", False)]
)
def test_progress_is_hidden_at_warning_level(level, wanted, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(rich.console, "Console", lambda **_: Console(file=out, force_terminal=True, width=100))
    terminal.setup(level)
    assert terminal.progress_enabled() == wanted
    with terminal.bytes_progress("tokens") as report:
        report(1, 2)
    assert bool(out.getvalue()) == wanted


@pytest.mark.parametrize("is_terminal", [True, False])
def test_counted_items_show_a_bar_on_a_terminal_only(monkeypatch, is_terminal):
    file = io.StringIO()
    console = Console(file=file, force_terminal=is_terminal, width=80)
    monkeypatch.setattr(rich.console, "Console", lambda **_: console)
    assert list(terminal.track(iter("abc"), "texts", 3)) == ["a", "b", "c"]
    assert ("texts" in file.getvalue()) is is_terminal


def test_one_line_has_a_sign_for_each_character_that_does_not_print():
    assert terminal.one_line("a\n\x1b[31m\u202e\ud800\u2028é漢") == "a\ufffd\ufffd[31m\ufffd\ufffd\ufffdé漢"
