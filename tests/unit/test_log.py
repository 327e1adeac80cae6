import io
import logging
import sys
from pathlib import Path

import pytest

from candlewick import log


def test_records_go_to_stderr_with_level_and_module(capsys):
    log.setup()
    logging.getLogger("candlewick.data.loader").warning("slow by %d %%", 3)
    assert capsys.readouterr().err == "WARNING candlewick.data.loader: slow by 3 %\n"


def test_details_go_to_the_file_only(tmp_path, capsys):
    log.setup()
    handler = log.add_file(tmp_path / "log.txt")
    logging.getLogger("candlewick").debug("detail")
    handler.close()
    assert capsys.readouterr().err == ""
    assert "DEBUG candlewick: detail" in (tmp_path / "log.txt").read_text()


def test_setting_up_twice_does_not_double_the_lines(capsys):
    log.setup()
    log.setup()
    logging.getLogger("candlewick").info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_records_go_to_a_file_too(tmp_path, capsys):
    log.setup()
    handler = log.add_file(tmp_path / "run.log")
    logging.getLogger("candlewick.train").info("step 1, é")
    handler.close()
    logging.getLogger("candlewick").removeHandler(handler)
    logging.getLogger("candlewick.train").info("step 2")
    lines = (tmp_path / "run.log").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("INFO candlewick.train: step 1, é")
    assert "step 2" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_log_on_a_full_disk_is_told_in_one_line_each(capsys):
    log.setup()
    handler = log.add_file(Path("/dev/full"))
    logging.getLogger("candlewick").info("step 1")
    logging.getLogger("candlewick").removeHandler(handler)
    handler.close()
    assert capsys.readouterr().err.splitlines() == [
        "INFO candlewick: step 1",
        "WARNING /dev/full cannot be written: [Errno 28] No space left on device",
    ]


def test_records_go_where_standard_error_goes_at_the_time(monkeypatch):
    log.setup()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    logging.getLogger("candlewick").info("to the new one")
    assert sys.stderr.getvalue() == "INFO candlewick: to the new one\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_on_a_full_disk_is_told_and_ends_nothing(capsys):
    log.setup()
    handler = log.add_file(Path("/dev/full"))
    logging.getLogger("candlewick").info("a line")
    handler.close()
    assert "WARNING /dev/full cannot be written: [Errno 28]" in capsys.readouterr().err


@pytest.mark.parametrize(("level", "shown"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_terminal_shows_a_level_on_and_the_file_everything(level, shown, tmp_path, capsys):
    log.setup(level)
    handler = log.add_file(tmp_path / "log.txt")
    for name in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger("candlewick"), name)("a line")
    handler.close()
    assert capsys.readouterr().err.count("a line") == shown
    assert (tmp_path / "log.txt").read_text().count("a line") == 4
