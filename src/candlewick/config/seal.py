"""The first line of a run's config.yaml: which run it is, and a hash of that and of all that follows.

    # candlewick run 3f2a9c0d11ab sha256 9b1c...

So a damaged bit, or an edit that the next start would take for the settings of the run, is noticed.
"""

import hashlib
import re
from pathlib import Path

from candlewick.errors import ConfigError

_SEAL = re.compile(r"# candlewick run ([0-9a-f]{12}) sha256 ([0-9a-f]{64})\n")
_MARK = "# candlewick run "


def seal(text: str, run: str) -> str:
    """Return the text of a configuration with the line that names its run and seals both."""
    return f"{_MARK}{run} sha256 {_sha256(text, run)}\n{text}"


def require_whole(text: str, path: Path) -> None:
    """Raise ConfigError if a text has the line of a seal and is not what was sealed."""
    if not text.startswith(_MARK):
        return
    found = _SEAL.match(text)
    if found is None or found[2] != _sha256(text[found.end() :], found[1]):
        raise ConfigError(
            f"{path} was changed since its run wrote it: its sha256 is another one",
            "restore it and give changes as --override KEY=VALUE, or remove its first line to use it as your own",
        )


def read_run_id(path: Path) -> str | None:
    """Return the id of the run that wrote a configuration; None if there is no such file, or no seal."""
    if not path.is_file():  # a pipe would be waited for
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        found = _SEAL.match(file.readline(200))
    return found and found[1]


def _sha256(text: str, run: str) -> str:
    return hashlib.sha256(f"{run}\n{text}".encode()).hexdigest()
