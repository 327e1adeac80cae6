"""The long form of the campaign over random configurations.

    python -m tests.fuzz.configs --count 100000 --processes 2 --seed 0

Configuration number n is a function of n alone: a campaign that was stopped goes on with `--seed` at the number
that its last line names, and `--count 1 --seed n` repeats one. The exit code is 1 when there was a defect; each is
printed with the text of its configuration. Preparing text waits for the disk: TMPDIR=/dev/shm makes that shorter.
"""

import argparse
import logging
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from functools import cache
from pathlib import Path

import torch
from tests.fuzz.generator import configuration
from tests.fuzz.workbench import Defect, Workbench

from candlewick.parallel import precision
from candlewick.train import build as build_module

_CHUNK = 50
_benches: list[Workbench] = []  # of this process


def main() -> int:
    """Try a range of configurations; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="number of the first configuration")
    args = parser.parse_args()
    numbers = range(args.seed, args.seed + args.count)
    chunks = [numbers[low : low + _CHUNK] for low in range(0, args.count, _CHUNK)]
    outcomes: Counter[str] = Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        pool = multiprocessing.get_context("spawn").Pool(args.processes, _start, (folder,))
        with pool:
            for chunk, (found, defects) in zip(chunks, pool.imap(_try, chunks), strict=True):
                outcomes.update(found)
                for defect in defects:
                    print(f"\n{defect}", flush=True)
                seconds = (time.monotonic() - began) / outcomes.total()
                line = ", ".join(f"{count:,} {name}" for name, count in sorted(outcomes.items()))
                print(
                    f"\r{line}; {1000 * seconds:.1f} ms each; go on with --seed {chunk.stop}", end="", flush=True
                )
    print()
    return 1 if outcomes["defects"] else 0


def _start(folder: str) -> None:
    """Begin a process that does nothing else: the machine stays the same, its speed and warnings do not matter."""
    torch.set_num_threads(1)
    build_module.measure_peak_flops = cache(build_module.measure_peak_flops)
    precision._MEASURE_SECONDS = 0.0  # one product tells what half precision costs here
    logging.getLogger("candlewick").setLevel(logging.ERROR)
    _benches.append(Workbench(Path(tempfile.mkdtemp(dir=folder))))


def _try(numbers: range) -> tuple[Counter[str], list[str]]:
    outcomes: Counter[str] = Counter()
    defects: list[str] = []
    for number in numbers:
        suffix, text = configuration(number)
        try:
            outcomes[_benches[0].attempt(suffix, text)] += 1
        except Defect as defect:
            outcomes["defects"] += 1
            defects.append(f"number {number}, {suffix}:\n{text}\n{defect}")
    return outcomes, defects


if __name__ == "__main__":
    sys.exit(main())
