"""Every error that Candlewick raises on purpose, and the exit code each one becomes.

A message says what is wrong, where, both values, and the fix; the command line prints it on one line, without a
traceback. Any other exception that reaches the command line is a bug, and keeps its traceback.
"""

from pathlib import Path

_MAX_CHARS = 4000


class CandlewickError(Exception):
    """A problem that the user can act on: what is wrong, and what to do about it."""

    exit_code = 1

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem, fix)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        problem = self.problem
        if len(problem) > _MAX_CHARS:  # names and values may come from a damaged or hostile file
            problem = f"{problem[: _MAX_CHARS // 2]} ... {problem[-_MAX_CHARS // 2 :]}"
        return " ".join(f"{problem} (fix: {self.fix})".split())


class ConfigError(CandlewickError):
    """A setting or a command line is wrong."""

    exit_code = 2


class DataError(CandlewickError):
    """Text, token shards or their manifest cannot be used."""

    exit_code = 3


class TokenizerError(CandlewickError):
    """A tokenizer cannot be used, or is not the one that was expected."""

    exit_code = 3


class CheckpointError(CandlewickError):
    """A checkpoint is missing, damaged, or belongs to another run.

    `path` is the folder, if the problem is that it holds no checkpoint of Candlewick.
    """

    exit_code = 3

    def __init__(self, problem: str, fix: str, path: Path | None = None) -> None:
        super().__init__(problem, fix)
        self.path = path


class ArtifactError(CandlewickError):
    """A folder's manifest does not match what lies in the folder."""

    exit_code = 3


class MachineError(CandlewickError):
    """The machine cannot do it: disk, permissions, device, a missing package."""

    exit_code = 4


class RunInterrupted(CandlewickError):
    """A run was stopped on request, after saving; `--resume` goes on.

    `words` are those of the command that does, if it is not the one that was stopped.
    """

    exit_code = 5
    words: tuple[str, ...] = ()


class RunDiverged(CandlewickError):
    """Training left the finite numbers and did not come back."""

    exit_code = 6
