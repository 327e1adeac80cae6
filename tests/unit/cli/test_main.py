import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from candlewick.cli import main as cli
from candlewick.errors import (
    ArtifactError,
    CheckpointError,
    ConfigError,
    DataError,
    MachineError,
    RunDiverged,
    RunInterrupted,
    TokenizerError,
)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_each_verb_names_the_verb(verb, capsys):
    assert cli.main([verb, "--help"]) == 0
    assert f"candlewick {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--version"], ["train", "--version"], ["orchestrate", "--version"]])
def test_version_option_works_with_and_without_a_verb(words, capsys):
    assert cli.main(words) == 0
    assert capsys.readouterr().out.startswith("candlewick ")


def test_help_names_every_verb(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {verb}" in out for verb in cli.VERBS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tran"], "did you mean `train`?"),
        (["zzz"], "see `candlewick --help`"),
        (["train", "--bogus"], "--bogus"),
        (["train", "--step", "3"], "did you mean --steps? see `candlewick train --help`"),
        (
            ["generate", "x", "--max_new_tokens=3"],
            "there is no flag --max_new_tokens (fix: did you mean --max-new-tok",
        ),
        (["data", "shard", "--replce"], "did you mean --replace? see `candlewick data shard --help`"),
        (["generate", "x", "y", "z"], "'z' is one word too many"),
    ],
)
def test_wrong_command_line_prints_one_line_and_exits_2(words, said, capsys):
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err
    assert "fix:" in err


def _raising(error, monkeypatch):
    def run(args):
        raise error

    monkeypatch.setattr("candlewick.cli.doctor.run", run)
    return cli.main(["doctor"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("a\n  b", "c"), 2),
        (DataError("a b", "c"), 3),
        (TokenizerError("a b", "c"), 3),
        (CheckpointError("a b", "c"), 3),
        (ArtifactError("a b", "c"), 3),
        (MachineError("a b", "c"), 4),
        (RunDiverged("a b", "c"), 6),
    ],
)
def test_candlewick_error_prints_one_line_and_exits_with_its_code(error, code, monkeypatch, capsys):
    assert _raising(error, monkeypatch) == code
    assert capsys.readouterr().err == "error: a b (fix: c)\n"


def test_interruption_is_no_error_and_prints_the_command_that_goes_on(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["candlewick"])
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/candlewick")
    monkeypatch.setattr("pathlib.Path.samefile", lambda *_: True)
    stop = RunInterrupted("stopped, all saved", "go on with --resume")
    assert _raising(stop, monkeypatch) == 5
    assert capsys.readouterr().err == "stopped, all saved. To go on: candlewick doctor\n"
    stop.words = ("train", "--resume", "my run")
    assert _raising(stop, monkeypatch) == 5
    assert capsys.readouterr().err.endswith("To go on: candlewick train --resume 'my run'\n")


def test_no_word_at_all_shows_the_overview(capsys):
    assert cli.main([]) == 0
    assert "go from text to a trained model" in capsys.readouterr().out


def test_names_in_an_error_command_no_terminal(monkeypatch, capsys):
    assert _raising(DataError("only \x1b[2J, \udcff", "é"), monkeypatch) == 3
    assert capsys.readouterr().err == "error: only \ufffd[2J, \ufffd (fix: é)\n"


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (errno.ENOSPC, 4, "free space"),
        (errno.EACCES, 4, "write to"),
        (errno.EROFS, 4, "write to"),
        (errno.ENOENT, 2, "check the path"),
        (errno.EIO, 4, "check the disk"),
    ],
)
def test_os_error_prints_one_line_with_path_and_fix(number, code, said, monkeypatch, capsys):
    assert _raising(OSError(number, "no", "/x/y"), monkeypatch) == code
    err = capsys.readouterr().err
    assert "/x/y" in err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_error_that_cannot_be_told_keeps_its_exit_code():
    command = [sys.executable, "-m", "candlewick", "config", "show", "--config", "/nowhere.yaml"]
    with Path("/dev/full").open("w") as full:
        assert subprocess.run(command, stderr=full, check=False).returncode == 2


def test_interrupt_outside_a_run_exits_5(monkeypatch, capsys):
    assert _raising(KeyboardInterrupt(), monkeypatch) == 5
    assert capsys.readouterr().err == "interrupted\n"


def test_unexpected_exception_is_not_caught(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        _raising(ZeroDivisionError(), monkeypatch)


def test_closed_pipe_ends_without_a_message():
    command = [sys.executable, "-m", "candlewick", "config", "show"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "nowhere", "--seed", "1", "a prompt"],
        ["generate", "nowhere", "a prompt", "--seed", "1"],
        ["generate", "--seed", "1", "nowhere", "a prompt"],
        ["eval", "nowhere", "--json", "a.txt", "--device", "cpu", "b.txt"],
        ["tokenizer", "encode", "nowhere", "--json", "some text"],
    ],
)
def test_options_may_precede_or_follow_positional_arguments(words, capsys):
    assert cli.main(words) == 3
    assert "nowhere does not exist" in capsys.readouterr().err


class PanicException(BaseException):
    """As that of pyo3, which derives from BaseException alone."""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError(), 4, "error: there is not enough memory (fix: "),
        (
            PanicException("index out of range"),
            3,
            "error: a library gave up on its input: index out of range (fix: ",
        ),
    ],
)
def test_lack_of_memory_and_a_panic_of_a_library_are_one_line(monkeypatch, capsys, error, code, said):
    def fail(_):
        raise error

    monkeypatch.setattr("candlewick.cli.doctor.run", fail)
    assert cli.main(["doctor"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(said)


def test_pipe_as_a_configuration_is_refused_at_once(tmp_path, capsys):
    os.mkfifo(tmp_path / "c.yaml")
    assert cli.main(["config", "show", "--config", str(tmp_path / "c.yaml")]) == 2
    assert "it is no regular file" in capsys.readouterr().err
