"""Completion scripts run in a real bash, and in zsh and fish where they are installed."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess

import pytest
import shtab

from candlewick.cli.main import VERBS, main
from candlewick.config.load import profiles


@pytest.fixture
def script(tmp_path, monkeypatch, capsys):
    """Return a function that writes a shell's script; the working folder has one file and one folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").touch()
    (tmp_path / "outputs").mkdir()

    def write(shell: str) -> str:
        if shutil.which(shell) is None:
            pytest.skip(f"there is no {shell}")
        assert main(["completion", shell]) == 0
        (tmp_path / f"complete.{shell}").write_text(capsys.readouterr().out)
        return f"complete.{shell}"

    return write


@pytest.fixture
def complete(script):
    """Return what bash offers at the end of a line: `complete("train --")`; an empty last word after a space."""
    name = script("bash")

    def offers(line: str) -> list[str]:
        words = ["candlewick", *line.split(), *([""] if line.endswith(" ") or not line else [])]
        program = f"""source {name}
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
            _candlewick; printf '%s\\n' "${{COMPREPLY[@]}}\""""
        done = subprocess.run(["bash", "-c", program, "bash", *words], capture_output=True, text=True, check=True)
        assert not done.stderr
        return done.stdout.split("\n")[:-1] if done.stdout.strip() else []

    return offers


def test_bash_offers_verbs_actions_and_options(complete):
    assert complete("") == list(VERBS)
    assert complete("ge") == ["generate"]
    assert complete("config ") == ["show", "list", "schema", "explain", "diff", "plot-schedule"]
    assert complete("tokenizer tr") == ["train"]
    assert {"--resume", "--run-dir", "--config"} <= set(complete("train --"))
    assert "--resume" not in complete("tokenizer train --")
    assert "--format" in complete("config show --json --fo")


def test_bash_offers_profiles_choices_and_setting_keys(complete):
    assert complete("train --config de") == ["demo"]
    assert set(complete("train --config ")) == {*profiles(), "complete.bash", "outputs", "own.yaml"}
    assert complete("config show --format ") == ["yaml", "toml", "json"]
    assert complete("eval run --device m") == ["mps"]
    assert complete("completion fi") == ["fish"]
    assert complete("train --override model.hidden") == ["model.hidden_size="]
    assert complete("train --override data.mix") == [
        "data.mixture=",
        "data.mixture[0].shards=",
        "data.mixture[0].weight=",
    ]


def test_bash_offers_folders_and_files(complete):
    assert complete("train --run-dir o") == ["outputs"]
    assert set(complete("generate o")) == {"outputs", "own.yaml"}
    assert complete("tokenizer train --output ") == ["outputs"]
    for verb in ("demo", "config diff", "data fetch", "tokenizer train", "eval outputs"):
        assert set(complete(f"{verb} o")) == {"outputs", "own.yaml"}
    assert complete("train --resume o") == ["outputs"]
    assert complete("train --init-from hf") == []  # bash itself then offers files


LINES = {
    "ge": "generate",
    "train --config de": "train --config demo",
    "train --config ow": "train --config own.yaml",
    "train --override model.hidden": "train --override model.hidden_size=",
    "train --run-dir o": "train --run-dir outputs",
    "config show --format y": "config show --format yaml",
}


@pytest.mark.parametrize(
    ("words", "load"),
    [
        (["bash", "--norc", "--noprofile", "-i"], "source complete.bash"),
        (["zsh", "-f", "-i"], 'autoload -Uz compinit; compinit -u -D; eval "$(<complete.zsh)"'),
    ],
)
def test_bash_completes_a_line_on_tab_in_a_terminal(script, words, load):
    script(words[0])
    process, terminal = pty.fork()
    if process == 0:
        os.environ.update({"TERM": "dumb", "PS1": "", "HISTFILE": ""})
        os.execvp(words[0], words)

    def read_until(pattern: str) -> str:
        text = ""
        while not (match := re.search(pattern, text)):
            assert select.select([terminal], [], [], 30)[0], f"no {pattern} in {text!r}"
            text += os.read(terminal, 1 << 16).decode(errors="replace")
        return match[1]

    try:
        os.write(terminal, f"{load}; echo RE''ADY\n".encode())
        read_until("(READY)")
        for line, completed in LINES.items():
            # Tab, to the start of the line, to its end: so the shell prints the line instead of running it
            os.write(terminal, f"candlewick {line}\t\x01echo '[\x05]'\r".encode())
            assert read_until(r"\n\[candlewick (.*?)[ /]?\]\r") == completed
    finally:
        os.close(terminal)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


@pytest.mark.parametrize("line", LINES)
def test_fish_offers_completions_of_a_line(script, line):
    program = f"function candlewick; end; source {script('fish')}; complete -C 'candlewick {line}'"
    done = subprocess.run(["fish", "--no-config", "-c", program], capture_output=True, text=True, check=True)
    assert LINES[line].split()[-1] in [offer.partition("\t")[0].rstrip("/") for offer in done.stdout.splitlines()]


@pytest.mark.parametrize("shell", shtab.SUPPORTED_SHELLS)
def test_completion_script_holds_every_verb_and_action(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(verb in script for verb in (*VERBS, "plot-schedule", "encode", "--init-from"))
    if shell != "powershell" and shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_completion_help_shows_the_installation_for_each_shell(capsys):
    assert main(["completion", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"completion {shell}" in text for shell in shtab.SUPPORTED_SHELLS)


def test_completion_refuses_an_unknown_shell(capsys):
    assert main(["completion", "ksh"]) == 2
    assert "choose from" in capsys.readouterr().err
