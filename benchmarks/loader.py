"""How many tokens per CPU-second the loader hands out, beside reading in the manner of nanoGPT.

    python benchmarks/loader.py [--tokens 262144000] [--modes] [--json FILE]

A synthetic uint16 shard of documents of about 700 tokens is written to a temporary folder and read once, so that
it lies in the page cache. Then the readers take turns, in one thread: B = 32 rows of T = 2,048 tokens per batch.
CPU-seconds of the whole process are counted, those of the loader's own thread included. nanoGPT's way: rows at
random places (with repetition), one slice at a time, widened to int64; the memory map is opened anew for each
batch, as it does against a leak. With --modes the settings that ask more of the loader are measured too.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from candlewick.artifacts.manifest import MANIFEST
from candlewick.config import DataConfig
from candlewick.data.rows.batches import BatchSchedule
from candlewick.data.rows.loader import Loader
from candlewick.data.rows.row_order import RowOrder
from candlewick.data.tokens.dataset import TokenSplit
from candlewick.data.tokens.maps import FolderHold, MappedFiles

ROWS, LENGTH = 32, 2048
DELIMITER = 0
MODES: dict[str, dict[str, object]] = {
    "document mask": {"document_mask": True},
    "bfd": {"packing": "bfd"},
    "bfd, document mask": {"packing": "bfd", "document_mask": True},
    "window": {"order": "window"},
    "mixture": {"mixture": [{"shards": ["x"], "weight": 7}, {"shards": ["x"], "weight": 3}]},
}


def write_shard(path: Path, tokens: int) -> np.ndarray:
    """Write documents of random tokens; return where they end."""
    rng = np.random.default_rng(0)
    ends = np.cumsum(rng.lognormal(6.05, 1.0, tokens // 600).astype(np.int64) + 1)
    ends = np.append(ends[ends < tokens], tokens)
    with path.open("wb") as file:
        for low in range(0, tokens, 1 << 24):
            part = rng.integers(1, 50_000, min(1 << 24, tokens - low), dtype=np.uint16)
            begins = ends[(ends >= low) & (ends < low + part.size)] - low
            part[begins] = DELIMITER
            file.write(part.tobytes())
    return ends.astype(np.uint64)


def make_loader(split: TokenSplit, settings: dict[str, object]) -> Loader:
    config = DataConfig.model_validate({"micro_batch_size": ROWS, **settings}, strict=False)
    sources = [split] * max(1, len(config.mixture))
    return Loader(
        RowOrder(sources, config, sequence_length=LENGTH, seed=0),
        BatchSchedule(ROWS),
        micro_batch_size=config.micro_batch_size,
    )


def reader(loader: Loader) -> Callable[[], int]:
    return lambda: sum(batch.tokens.numel() for batch in loader.next().micro_batches)


def random_rows(path: Path) -> int:
    data = np.memmap(path, np.uint16, "r")
    places = torch.randint(len(data) - LENGTH, (ROWS,))
    x = torch.stack([torch.from_numpy(data[i : i + LENGTH].astype(np.int64)) for i in places.tolist()])
    y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + LENGTH].astype(np.int64)) for i in places.tolist()])
    assert y.shape == x.shape
    return x.numel()


def tokens_per_cpu_second(read: Callable[[], int], batches: int) -> float:
    began, tokens = time.process_time(), 0
    for _ in range(batches):
        tokens += read()
    return tokens / (time.process_time() - began)


def machine() -> dict[str, object]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": next(names, platform.processor()),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=262_144_000)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--modes", action="store_true", help="measure the other modes too")
    parser.add_argument("--json", type=Path, help="also write the result here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train-00000.bin"
        ends = write_shard(path, args.tokens)
        (path.parent / MANIFEST).touch()  # what a dataset has, and a hold locks
        shards = MappedFiles(FolderHold(path.parent), "{}.bin", [path.stem], [args.tokens], np.uint16)
        shards[0].sum()  # into the page cache
        split = TokenSplit("train", "0" * 64, shards, (0,), args.tokens, args.tokens * 4, DELIMITER, (ends,))
        modes = {"candlewick": {}, **(MODES if args.modes else {})}
        loaders = {name: make_loader(split, settings) for name, settings in modes.items()}
        readers = {name: reader(loader) for name, loader in loaders.items()}
        readers["nanoGPT's way"] = lambda: random_rows(path)
        rates: dict[str, list[float]] = {name: [] for name in readers}
        for read in readers.values():
            tokens_per_cpu_second(read, 20)  # warm-up
        for _ in range(args.repeats):
            for name, read in readers.items():
                rates[name].append(tokens_per_cpu_second(read, args.batches))
        for loader in loaders.values():
            loader.close()
    result = {
        **machine(),
        "rows": ROWS,
        "sequence_length": LENGTH,
        "tokens_in_shard": args.tokens,
        "tokens_per_cpu_second": {name: sorted(map(round, values)) for name, values in rates.items()},
        "ratio_of_medians": round(np.median(rates["candlewick"]) / np.median(rates["nanoGPT's way"]), 2),
    }
    for name, values in rates.items():
        low, middle, high = np.percentile(values, [0, 50, 100]) / 1e6
        print(f"{name:18} {middle:8.1f} million tokens per CPU-second ({low:.1f} to {high:.1f})", file=sys.stderr)
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
