"""How many documents per CPU-second are packed into rows, and how much of the rows is padding.

    python benchmarks/packing.py [--documents 1000000] [--json FILE]

Lengths are drawn from distributions (web text is nearly log-normal) and packed in one thread as by
`data.packing: bfd`. Nothing is read but the ends of documents.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np

from candlewick.data.rows.packing import PackedRows
from candlewick.data.tokens.dataset import TokenSplit

DISTRIBUTIONS = {
    "log-normal, median 423": lambda rng, n: rng.lognormal(6.05, 1.0, n),
    "log-normal, median 183": lambda rng, n: rng.lognormal(5.21, 1.8, n),
    "uniform to 4,096": lambda rng, n: rng.uniform(1, 4096, n),
    "all of 700": lambda _, n: np.full(n, 700.0),
}


def measure(lengths: np.ndarray, row_tokens: int) -> dict[str, float]:
    ends = np.cumsum(lengths).astype(np.uint64)
    total = int(ends[-1])
    split = TokenSplit("train", "0" * 64, (np.empty(0, np.uint16),), (0,), total, total, 0, (ends,))
    began = time.process_time()
    rows = PackedRows(split, row_tokens).num_rows
    seconds = time.process_time() - began
    return {
        "documents_per_cpu_second": round(lengths.size / seconds),
        "padding_percent": round(100 * (1 - total / (rows * row_tokens)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the result here")
    args = parser.parse_args()
    cases: dict[str, dict[str, float]] = {}
    for name, draw in DISTRIBUTIONS.items():
        lengths = np.clip(draw(np.random.default_rng(0), args.documents).astype(np.int64), 1, 1 << 20)
        for row_tokens in (1024, 2048, 8192):
            runs = [measure(lengths, row_tokens) for _ in range(args.repeats)]
            best = max(runs, key=lambda run: run["documents_per_cpu_second"])
            cases[f"{name}, T={row_tokens}"] = best
            print(
                f"{name:24} T={row_tokens:5} {best['documents_per_cpu_second'] / 1e6:6.2f} million documents per "
                f"CPU-second, {best['padding_percent']:.4f} % padding",
                file=sys.stderr,
            )
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "documents": args.documents,
        "cases": cases,
    }
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
