"""Everything that is known only with a CUDA device at hand, in one run: `make gpu`.

    python benchmarks/gpu.py [--seconds 300] [--output DIR] [--dry-run]

First the tests that need the device, then `training.py`, then `attention.py`. Each writes its JSON file into DIR
while it goes; what the time did not suffice for is listed at the end. The exit code is 1 when a step failed.
--dry-run takes the CPU and tiny shapes: the tests of the device are collected and skipped.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
TRAINING_SHARE = 0.6  # of the time that the tests leave: no case begins after it
CUT_OFF_SHARE = 0.85  # the last case is cut off there: the attention has the rest


def commands(output: Path, is_dry_run: bool, seconds: float) -> dict[str, list[str | Path]]:
    """Return the command of each step after the tests, which have taken their part of the time."""
    date = time.strftime("%Y-%m-%d")
    training = ["training.py", "--seconds", str(seconds * TRAINING_SHARE)]
    attention = ["attention.py", "--seconds", "1", "--repeats", "5"]
    return {
        "training": [
            *training,
            "--json",
            output / f"training-{date}.json",
            *(["--dry-run"] if is_dry_run else []),
        ],
        "attention": [
            *attention,
            *("--json", output / f"attention-gpu-{date}.json", "--device", "cpu" if is_dry_run else "cuda"),
            *(["--quick"] if is_dry_run else []),
        ],
    }


def finish(name: str, command: list[str | Path], seconds: float) -> str:
    """Run one step; return what became of it."""
    if seconds <= 0:
        return "not reached"
    print(f"--- {name}, at most {seconds:.0f} s", flush=True)
    try:
        code = subprocess.run(
            [sys.executable, *command], cwd=FOLDER.parent, timeout=seconds, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return "cut off"
    return "done" if code == 0 else f"failed with exit code {code}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0, help="for everything")
    parser.add_argument("--output", type=Path, default=FOLDER / "results", metavar="DIR")
    parser.add_argument("--dry-run", action="store_true", help="the CPU, tiny shapes")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    tests: list[str | Path] = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu"]
    outcome = {"tests": finish("tests", tests, arguments.seconds)}
    left = end - time.monotonic()
    for name, command in commands(arguments.output, arguments.dry_run, left).items():
        command[0] = FOLDER / command[0]
        limit = left * CUT_OFF_SHARE if name == "training" else end - time.monotonic()
        outcome[name] = finish(name, command, limit)
    for name, result in outcome.items():
        print(f"{name}: {result}")
    return int(any(result != "done" for result in outcome.values()))


if __name__ == "__main__":
    sys.exit(main())
