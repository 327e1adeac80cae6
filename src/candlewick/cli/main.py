"""The command line: a table of verbs, each with a file, and the translation of errors to exit codes.

The file of a verb has `add_arguments(parser)`, and `run(args)` unless it declares actions (`add_action`). It is
imported only when its verb is called, so that `--help` needs neither torch nor numpy.
"""

import argparse
import difflib
import errno
import importlib
import os
import shlex
import sys
from contextlib import suppress
from typing import Any, NoReturn

from candlewick import __version__
from candlewick.cli import candle
from candlewick.cli.arguments import as_sentence
from candlewick.cli.environment import adopt_hub_token, shorten_openmp_spin, shown_program
from candlewick.errors import CandlewickError, RunInterrupted
from candlewick.terminal import one_line

VERBS = {
    "demo": "go from text to a trained model in one command, in a few minutes, without network",
    "train": "train a model from a configuration, or resume a run",
    "orchestrate": "run all steps from text to samples, and skip those that are up to date",
    "tokenizer": "train, inspect and use tokenizers",
    "data": "fetch, shard, clean and encode text; verify and inspect the results",
    "import": "convert a candle or Hugging Face checkpoint",
    "generate": "generate text with a checkpoint",
    "chat": "talk with a model, or let it continue what you type",
    "eval": "measure loss, perplexity, accuracy and bits per byte of a checkpoint",
    "profile": "measure where a training step spends time and memory",
    "report": "write runs as one HTML page: curves, samples, settings, origins",
    "runs": "list the runs of a folder",
    "compare": "compare the settings, losses and speed of two runs",
    "config": "show, explain and compare configurations",
    "completion": "print a completion script for a shell",
    "doctor": "check this machine, and show what a run on it would use",
}
_MODULES = {"import": "import_model"}  # `import` is a keyword of Python


class _Parser(argparse.ArgumentParser):
    """A parser with one-line errors that accepts options between positional arguments."""

    intermixing = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride] - overloaded there
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        """Parse; `generate RUN --seed 1 PROMPT` would miss the prompt otherwise, as it may be left out."""
        if self.intermixing or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self.intermixing = True  # it calls this method again for each of its two passes
        try:
            found, unknown = self.parse_known_intermixed_args(args, namespace)
        finally:
            self.intermixing = False
        if unknown:
            self._refuse(unknown[0])
        return found, unknown

    def _refuse(self, word: str) -> NoReturn:
        """Write an error for a word that this parser does not know, with the flag that it may stand for."""
        if not word.startswith("-"):
            self.error(f"{word!r} is one word too many")
        flag = word.partition("=")[0]
        matches = difflib.get_close_matches(flag.replace("_", "-"), self._option_string_actions, 1)
        hint = f"did you mean {matches[0]}? " if matches else ""
        sys.stderr.write(f"error: there is no flag {flag} (fix: {hint}see `{self.prog} --help`)\n")
        raise SystemExit(2)

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"error: {message} (fix: see `{self.prog} --help`)\n")
        raise SystemExit(2)


def build_parser(*loaded_verbs: str | None) -> argparse.ArgumentParser:
    """Return the parser of the command line, with the arguments of `loaded_verbs`."""
    parser = _Parser(
        prog="candlewick",
        description="Train a transformer language model on your text, and use it.",
        epilog="`candlewick VERB --help` explains a verb. Begin with `candlewick demo`.",
    )
    parser.add_argument("--version", action="version", version=f"candlewick {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, title="verbs")
    for name, help_text in VERBS.items():
        sub = verbs.add_parser(name, help=help_text, description=as_sentence(help_text))
        sub.add_argument("--version", action="version", version=f"candlewick {__version__}")
        if name in loaded_verbs:
            module = importlib.import_module(f"candlewick.cli.{_MODULES.get(name, name)}")
            module.add_arguments(sub)
            if hasattr(module, "run"):
                sub.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    words = (sys.argv[1:] if argv is None else argv) or ["--help"]
    verb = next((word for word in words if not word.startswith("-")), None)
    if verb is not None and verb not in VERBS:
        matches = difflib.get_close_matches(verb, VERBS, 1)
        hint = f"did you mean `{matches[0]}`?" if matches else "see `candlewick --help`"
        sys.stderr.write(f"error: there is no verb {verb!r} (fix: {hint})\n")
        return 2
    shorten_openmp_spin()
    adopt_hub_token()
    try:
        args = build_parser(verb).parse_args(words)
        args.run(args)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except RunInterrupted as error:
        _tell(f"{' '.join(error.problem.split())}. To go on: {shown_program()} {shlex.join(error.words or words)}")
        return error.exit_code
    except CandlewickError as error:
        error = candle.explain(error)
        _tell(f"error: {' '.join(str(error).split())}")
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        _tell("interrupted")
        return 5
    except OSError as error:
        return _report_os_error(error)
    except MemoryError:
        _tell("error: there is not enough memory (fix: give a smaller file, or a machine with more)")
        return 4
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of a library in Rust; it derives from BaseException alone
            raise
        _tell(f"error: a library gave up on its input: {str(error)[:200]} (fix: check the files)")
        return 3
    return 0


def _tell(line: str) -> None:
    """Write a line to standard error, which may be a file on a disk that is full.

    Names and values in it may be a stranger's, and must not command a terminal.
    """
    with suppress(OSError):
        sys.stderr.write(f"{one_line(line)}\n")
        sys.stderr.flush()


def _report_os_error(error: OSError) -> int:
    where = f" {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        fix = "free space there or choose another folder; what was saved before is intact"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        fix = "choose a folder that you may write to, or change its permissions"
    elif isinstance(error, FileNotFoundError | FileExistsError | NotADirectoryError | IsADirectoryError):
        fix = "check the path"
    else:
        fix = "check the disk; what was saved before is intact"
    _tell(f"error: {error.strerror or error}{where} (fix: {fix})")
    return 2 if isinstance(error, FileNotFoundError) else 4


if __name__ == "__main__":
    raise SystemExit(main())
