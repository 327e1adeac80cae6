"""Read and set environment variables for the command line. Only `parallel/env.py` reads others."""

import hashlib
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from candlewick.errors import DataError, MachineError

CLOUD_FOLDERS = {
    "RUNS": "/workspace/runs",
    "CACHE": "/workspace/cache",
    "TOKENIZER": "/workspace/artifacts/tokenizer",
    "TRAIN": "/workspace/datasets/train",
    "VAL": "/workspace/datasets/val",
    "HF_CACHE": "/workspace/hf_cache",
}
"""The folders of `--mode cloud`, which the environment may move."""


def shown_program() -> str:
    """Return how this program is called from here: its name if the shell finds it, else its path."""
    called = Path(sys.argv[0])
    found = shutil.which("candlewick")
    if found is not None and (called.name != "candlewick" or Path(found).samefile(called)):
        return "candlewick"
    if called.name == "candlewick" and called.is_file():
        return shlex.quote(os.path.relpath(called))
    return f"{shlex.quote(sys.executable)} -m candlewick"


def cache_home() -> Path:
    """Return the cache folder: $XDG_CACHE_HOME/candlewick, else ~/.cache/candlewick.

    A relative XDG_CACHE_HOME is ignored, as the XDG base directory specification says. Raises MachineError
    when there is no home folder either.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if Path(cache).is_absolute():
        return Path(cache) / "candlewick"
    try:
        return Path.home() / ".cache" / "candlewick"
    except RuntimeError:
        raise MachineError(
            "this user has no home folder to keep caches in", "set XDG_CACHE_HOME or data.cache_dir"
        ) from None


def save_stdin(folder: Path) -> Path:
    """Write standard input into a file of the folder, whose name is made from its hash; return its path.

    Raises DataError if there is none.
    """
    if sys.stdin.isatty():
        print("reading text from the terminal until Ctrl-D", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".new-", delete=False) as file:
        while block := sys.stdin.buffer.read(1 << 20):
            file.write(block)
            digest.update(block)
        size = file.tell()
    path = folder / f"{digest.hexdigest()[:16]}.txt"
    Path(file.name).replace(path)
    if not size:
        path.unlink()
        raise DataError("no text came from standard input", "pipe some in: cat notes/*.md | candlewick ... -")
    return path


def shorten_openmp_spin() -> None:
    """Shorten the time that OpenMP threads spin before they sleep; call it before torch is imported.

    GNU OpenMP spins for milliseconds at the end of every parallel loop, which keeps the thread that is waited for
    off a shared core. A value that the user has set stays. Figures: docs/decisions/0004-waiting-threads.md.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def adopt_hub_token() -> None:
    """Let the token of the Hub also come from the two other variables in use, if HF_TOKEN is not set."""
    tokens = (os.environ.get(f"{name}_TOKEN") for name in ("HF", "HUGGINGFACEHUB_API", "HUGGINGFACE_HUB"))
    if token := next(filter(None, tokens), None):
        os.environ["HF_TOKEN"] = token


def use_hub(*, token: str | None = None, home: Path | None = None) -> None:
    """Set the token and the folder of the Hub's library; call it before the library is imported."""
    if token is not None:
        os.environ["HF_TOKEN"] = token
    if home is not None:
        os.environ |= {"HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub")}


def cloud_roots() -> dict[str, Path]:
    """Return the folders of `--mode cloud` by NAME, from ORCHESTRATE_NAME_ROOT, else below /workspace.

    An HF_HOME that is set counts as HF_CACHE.
    """
    folders = CLOUD_FOLDERS | {"HF_CACHE": os.environ.get("HF_HOME") or CLOUD_FOLDERS["HF_CACHE"]}
    return {n: Path(os.environ.get(f"ORCHESTRATE_{n}_ROOT") or folder).absolute() for n, folder in folders.items()}
