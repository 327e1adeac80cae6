"""An environment for each reader, with exactly the packages of its pin file.

    READERS/transformers-5.24/          a virtual environment
    READERS/transformers-5.24/pins.txt  what it was built from, written last

A pin file names every package, so pip resolves nothing. An environment is built again when its pin file or Python
changes, or when it was not built to its end.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PINS = Path(__file__).with_name("pins")
NAMES = sorted(path.stem for path in PINS.glob("*.txt"))
STAMP = "pins.txt"
_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


class NoNetworkError(Exception):
    """No package index answers."""


def build(root: Path, name: str) -> Path:
    """Return the interpreter of a reader's environment, which is built if it is not there.

    Raises NoNetworkError if no package index answers, SystemExit if a package cannot be installed.
    """
    folder, pins = root / name, PINS / f"{name}.txt"
    python, stamp = folder / "bin" / "python", folder / STAMP
    wanted = f"# Python {sys.version.split()[0]}\n{pins.read_text(encoding='utf-8')}"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    torch = next((line for line in wanted.splitlines() if line.startswith("torch==")), None)
    if torch is not None and (index := os.environ.get("TORCH_INDEX_URL")):
        install(python, "--index-url", index, torch)
    install(python, "-r", str(pins))
    stamp.write_text(wanted, encoding="utf-8")
    return python


def install(python: Path, *arguments: str) -> None:
    """Install packages, without what they depend on, into the environment of an interpreter. Raises as `build`."""
    options = ("--no-deps", "--no-compile", "--quiet")
    command = [*_PIP, "--python", str(python), "install", *options, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        if is_offline(done.stderr):
            raise NoNetworkError
        raise SystemExit(f"error: {' '.join(arguments)} cannot be installed:\n{done.stderr[-2000:]}")


def is_offline(stderr: str) -> bool:
    """Say of pip's messages if an index could not be reached; that an index lacks a package is another matter."""
    return re.search(r"after connection broken by|Temporary failure in name resolution", stderr) is not None


def megabytes(root: Path, name: str) -> int:
    """Return the size of the files of an environment, in millions of bytes."""
    files = (path for path in (root / name).rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files) // 1_000_000
