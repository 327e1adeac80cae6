"""bash runs the script for real; zsh and fish where they are installed."""

import shutil
import subprocess

import pytest

from candlewick.cli.completion import commands
from candlewick.cli.main import VERBS, main


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.fixture
def complete(capsys, tmp_path):
    """Return what bash offers at the end of a line: `complete("train --")`; an empty last word after a space."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    (tmp_path / "complete.bash").write_text(script("bash", capsys), encoding="utf-8")

    def offers(line: str) -> list[str]:
        words = [
            "candlewick",
            *line.replace("=", " = ").split(),
            *([""] if line.endswith((" ", "=")) or not line else []),
        ]
        program = """source complete.bash
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
            _candlewick; printf '%s\\n' "${COMPREPLY[@]}\""""
        done = subprocess.run(
            ["bash", "-c", program, "bash", *words], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert not done.stderr
        return done.stdout.split("\n")[:-1] if done.stdout.strip() else []

    return offers


def test_bash_offers_verbs_actions_and_options(complete):
    assert complete("") == list(VERBS)
    assert complete("ge") == ["generate"]
    assert complete("config ") == [
        "show",
        "list",
        "schema",
        "explain",
        "diff",
        "plot-schedule",
        "-h",
        "--help",
        "--version",
    ]
    assert complete("tokenizer tr") == ["train"]
    assert {"--resume", "--run-dir", "--config"} <= set(complete("train --"))
    assert "--resume" not in complete("tokenizer train --")
    assert "--format" in complete("config show --json --fo")


def test_bash_offers_values(complete):
    assert complete("train --config d") == ["demo"]
    assert complete("config show --format ") == ["yaml", "toml", "json"]
    assert complete("eval run --device m") == ["mps"]
    assert complete("train --override model.hidden") == ["model.hidden_size="]
    assert complete("train --override data.mix") == [
        "data.mixture=",
        "data.mixture[0].shards=",
        "data.mixture[0].weight=",
    ]
    assert complete("train --override model.hidden_size=") == []
    assert complete("train --run-dir x") == []  # bash itself then offers files


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_of_its_shell(shell, capsys):
    text = script(shell, capsys)
    assert "plot-schedule" in text
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True)


def test_every_verb_and_action_is_covered():
    paths = {command.path for command in commands()}
    assert {f" {verb}" for verb in VERBS} <= paths
    assert {" config show", " data prepare", " tokenizer encode"} <= paths


def test_another_shell_is_refused(capsys):
    assert main(["completion", "tcsh"]) == 2
    assert "choose from" in capsys.readouterr().err
