import logging

import pytest

from candlewick import log


@pytest.fixture(autouse=True)
def package_logger():
    """Give the package's logger back as it was."""
    logger = logging.getLogger("candlewick")
    before = logger.handlers[:], logger.level, logger.propagate
    yield logger
    logger.handlers[:], logger.level, logger.propagate = before[0], before[1], before[2]


def test_records_go_to_stderr_with_level_and_module(capsys):
    log.setup()
    logging.getLogger("candlewick.data.loader").warning("slow by %d %%", 3)
    assert capsys.readouterr().err == "WARNING candlewick.data.loader: slow by 3 %\n"


@pytest.mark.parametrize(("verbose", "shown"), [(False, ""), (True, "DEBUG candlewick: detail\n")])
def test_details_are_shown_when_asked_for(capsys, verbose, shown):
    log.setup(verbose=verbose)
    logging.getLogger("candlewick").debug("detail")
    assert capsys.readouterr().err == shown


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
