"""What it takes to open a dataset of 10T tokens, to read a row of it, and to plan packed rows of many documents.

    python -m benchmarks.datasets [--shards 44100] [--documents 100000000] [--json FILE]

Run it in the folder of the repository, on Linux. The dataset takes no room: its shards are holes, of 227 million
tokens each, and the manifest is real. The plan is that of `data.packing: bfd` for documents of about 700 tokens;
their ends are written, 8 bytes for each. Each figure is from a process of its own; its peak of resident memory has
Python, numpy and pydantic in it (about 65 MiB). Of the plan it is the memory that the kernel cannot take back.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from benchmarks.loader import machine
from tests.large_datasets import write_sparse_dataset

from candlewick.artifacts.manifest import MANIFEST

SHARD_TOKENS, SHARD_DOCUMENTS = 227_000_000, 1_000_000
OPEN = """
import json, sys, time
from pathlib import Path
import numpy as np
from candlewick.data.rows.chunking import ChunkedRows
from candlewick.data.tokens.dataset import TokenDataset
began, cpu = time.perf_counter(), time.process_time()
split = TokenDataset.open(Path(sys.argv[1])).split("train")
seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
rows = ChunkedRows(split, 2048)
chosen = np.random.default_rng(0).integers(0, rows.num_rows, 2000)
began = time.perf_counter()
for first in range(0, 2000, 50):
    rows.read(chosen[first : first + 50], 0)
row_seconds = (time.perf_counter() - began) / 2000
print(json.dumps({"tokens": split.num_tokens, "seconds": round(seconds, 2),
                  "cpu_seconds": round(cpu, 2), "peak_mib": int(peak.split()[1]) >> 10,
                  "microseconds_per_row": round(row_seconds * 1e6, 1)}))
"""
PLAN = """
import json, sys, time
from pathlib import Path
import numpy as np
from candlewick.data.rows.packing_plan import PackingPlan
from candlewick.data.tokens.dataset import TokenSplit
from candlewick.data.tokens.maps import FolderHold, MappedFiles
folder, shards = Path(sys.argv[1]), int(sys.argv[2])
ends = MappedFiles(FolderHold(folder), "{}.idx", [*map(str, range(shards))], [int(sys.argv[3])] * shards, "<u8")
starts = [0, *np.cumsum([int(array[-1]) for array in ends]).tolist()]
split = TokenSplit("train", "0" * 64, (), tuple(starts[:-1]), starts[-1], starts[-1], document_ends=ends)
began = time.perf_counter()
plan = PackingPlan(split, 2048, folder)
seconds = time.perf_counter() - began
anonymous = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
print(json.dumps({"rows": plan.num_rows, "seconds": round(seconds, 1), "mib": int(anonymous.split()[1]) >> 10}))
"""


def run(code: str, home: Path, *words: object) -> dict[str, float]:
    """Run code in a process of its own; return what it prints."""
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, env={**os.environ, "HOME": str(home)}, capture_output=True, check=True)
    return json.loads(done.stdout)


def write_ends(folder: Path, documents: int) -> int:
    """Write the ends of documents into files of a million each; return the number of files."""
    rng = np.random.default_rng(0)
    (folder / MANIFEST).touch()  # what is held while it is read
    shards = max(1, documents // SHARD_DOCUMENTS)
    for number in range(shards):
        sizes = rng.lognormal(6.05, 1.0, SHARD_DOCUMENTS).astype(np.int64).clip(1, 1 << 20)
        np.cumsum(sizes).astype("<u8").tofile(folder / f"{number}.idx")
    return shards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=44_100)
    parser.add_argument("--documents", type=int, default=100_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the result here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home, ends = Path(temporary) / "home", Path(temporary) / "ends"
        ends.mkdir()
        os.environ["HOME"] = str(home)  # where the stamp is written
        write_sparse_dataset(Path(temporary) / "ds", args.shards, SHARD_TOKENS)
        size = (Path(temporary) / "ds" / MANIFEST).stat().st_size
        opened = [run(OPEN, home, Path(temporary) / "ds") for _ in range(args.repeats)]
        shards = write_ends(ends, args.documents)
        planned = [run(PLAN, home, ends, shards, SHARD_DOCUMENTS) for _ in range(2)]
    plans = {"documents": shards * SHARD_DOCUMENTS, "first": planned[0], "again": planned[1]}
    result = {**machine(), "shards": args.shards, "manifest_bytes": size, "open": opened, "plan": plans}
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
