"""`candlewick chat` on a terminal: the line editor, the prompt, and Ctrl-C."""

import os
import pty
import select
import subprocess
import sys

import pytest


class Terminal:
    """A program whose standard streams are a terminal."""

    def __init__(self, *words: str) -> None:
        self.screen, self.seen = "", 0
        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", "candlewick", *words]
        environment = {**os.environ, "TERM": "xterm"}
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)

    def until(self, text: str) -> None:
        """Read until the program has shown a text, after all that was waited for before."""
        while text not in self.screen[self.seen :]:
            ready, _, _ = select.select([self.master], [], [], 60)
            assert ready, f"{text!r} does not come after {self.screen!r}"
            self.screen += os.read(self.master, 4096).decode(errors="replace")
        self.seen = self.screen.index(text, self.seen) + len(text)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    def __enter__(self) -> "Terminal":
        return self


@pytest.mark.usefixtures("default_signals")
def test_chat_on_a_terminal_answers_and_ends_at_a_second_interrupt(trained):
    with Terminal("chat", str(trained), "--max-new-tokens", "4") as terminal:
        terminal.until("> ")
        terminal.type("The man\n")
        terminal.until("tokens/s")
        terminal.until("> ")
        terminal.process.send_signal(2)
        terminal.until("once more, Ctrl-D or /quit to end")
        terminal.until("> ")
        terminal.process.send_signal(2)
        assert terminal.process.wait(60) == 0
    assert "Traceback" not in terminal.screen
