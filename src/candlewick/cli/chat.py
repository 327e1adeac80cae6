"""`candlewick chat`: talk with a model, or let a base model continue what is typed."""

import argparse
import sys
import time
from contextlib import suppress
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from candlewick.cli.arguments import add_choice, add_option
from candlewick.cli.generate import add_sampling, sampling_arguments
from candlewick.cli.output import escape_for_terminal
from candlewick.errors import CandlewickError
from candlewick.terminal import error_console, printable

if TYPE_CHECKING:
    from candlewick.config import SampleConfig
    from candlewick.runs.chat import Conversation

_HELP = """/help            show this
/temperature X   sample with temperature X; 0: always the most likely token
/reset           begin anew
/save FILE       append the conversation to FILE, as JSON lines to train on
/quit            end; so does Ctrl-D. Ctrl-C stops an answer."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "checkpoint", metavar="RUN", help="run folder, checkpoint folder, or hf://OWNER/NAME@REVISION"
    )
    add_option(parser, "--system", "TEXT", "system message, for a model that was trained on chats")
    add_choice(parser, "--device", ("auto", "cuda", "mps", "cpu"), "auto: the first of the others that works")
    add_sampling(parser)


def run(args: argparse.Namespace) -> None:
    """Answer line after line until the input ends."""
    from candlewick.runs.chat import Conversation
    from candlewick.runs.generate import TextGenerator

    given = sampling_arguments(args)
    generator = TextGenerator.load(args.checkpoint, args.device)
    chat = _Chat(Conversation(generator, args.system), generator.sampling(given), args.seed)
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    if sys.stdin.isatty():
        with suppress(ImportError):
            import_module("readline")  # gives `input` a line editor and a history
    is_chat = chat.conversation.is_chat
    about = "answers your messages" if is_chat else "was not trained on chats: it continues your text"
    _tell(f"The model {about}. /help for commands.")
    while (line := _read_line()) is not None:
        try:
            if line.startswith("/"):
                if line.split()[0] == "/quit":
                    return
                chat.command(line)
            elif line or not is_chat:
                chat.answer(line)
        except (CandlewickError, OSError) as error:
            if isinstance(error, BrokenPipeError) or not sys.stdin.isatty():
                raise
            _tell(f"error: {error}")


def _tell(text: str) -> None:
    """Write a line to standard error, dim on a terminal."""
    error_console().print(printable(text), style="dim", markup=False)


def _read_line() -> str | None:
    """Return the next line; None at the end of the input, or after a second Ctrl-C."""
    for note in ("once more, Ctrl-D or /quit to end", ""):
        try:
            return input("> " if sys.stdin.isatty() else "")
        except EOFError:
            break
        except KeyboardInterrupt:
            _tell(f"\n{note}")
    return None


class _Chat:
    """A conversation, and how its answers are sampled."""

    def __init__(self, conversation: "Conversation", config: "SampleConfig", seed: int) -> None:
        self.conversation, self.config, self.seed = conversation, config, seed

    def answer(self, line: str) -> None:
        """Print the answer while it is made. Ctrl-C stops it; what came so far is kept."""
        start, text = time.perf_counter(), ""
        generation = self.conversation.ask(line, self.config, self.seed)
        try:
            for piece in generation:
                text += piece
                sys.stdout.write(escape_for_terminal(piece))
                sys.stdout.flush()
        except KeyboardInterrupt:
            generation.close()
        sys.stdout.write("\n")
        sys.stdout.flush()
        self.conversation.keep(line, text, generation.stop)
        seconds = max(time.perf_counter() - start, 1e-9)
        _tell(f"{generation.num_tokens / seconds:,.1f} tokens/s{self._remarks(generation.stop)}")

    def _remarks(self, stop: str | None) -> str:
        """Return what else there is to say about the last answer."""
        remarks: dict[str | None, str]
        if self.conversation.is_chat:
            unit = "turn"
            remarks = {None: "stopped", "context": "the context is full", "length": "cut off at --max-new-tokens"}
        else:
            unit = "token"
            remarks = {"end": "the text ended, the next line begins a new one"}
        remark, left_out = remarks.get(stop), self.conversation.num_left_out
        forgotten = f"the first {left_out:,} {unit}{'s' * (left_out > 1)} left out" if left_out else None
        return "".join(f"; {text}" for text in (remark, forgotten) if text)

    def command(self, line: str) -> None:
        """Do what a line with a slash says. Raises CandlewickError and OSError for a value that cannot be."""
        name, _, value = line.partition(" ")
        if name == "/temperature":
            try:
                self.config = self.config.replaced(temperature=float(value))
            except ValueError:
                _tell(f"/temperature takes a number, not {value.strip()!r}")
        elif name == "/save" and value.strip():
            count = self.conversation.save(Path(value.strip()).expanduser())
            _tell(f"{count} row{'s' * (count != 1)} appended to {value.strip()}")
        elif name == "/reset":
            self.conversation.reset()
            _tell("all is forgotten")
        else:
            _tell(_HELP if name == "/help" else f"there is no command {line.strip()!r}; the commands are\n{_HELP}")
