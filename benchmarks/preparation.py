"""How many tokens per CPU-second `candlewick data prepare` makes of a .parquet, beside a plain `tokenizers` loop.

    python benchmarks/preparation.py [--megabytes 200] [--json FILE]

The text is the standard library's, repeated, with a share of the words changed in each repetition: a cache of
words would otherwise make every encoder look faster than it is on new text. One column of three, zstd, groups
of 1,000 rows. A tokenizer of 32,000 tokens is trained on the unchanged text. The CPU-seconds are those of this
process and of all workers, their start included, from the .parquet to the sealed dataset: reading, encoding,
checking against the reference, hashing, fsync, rename.

The peer encodes row by row with `tokenizers` and appends to one file, on the first few MB. The sides take turns.
"""

import argparse
import json
import os
import platform
import random
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer as PlainTokenizer

from candlewick.config import DataConfig
from candlewick.data.text.find import open_text
from candlewick.data.tokens.prepare import EncodeJob, prepare_tokens
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.train import train_tokenizer

VOCABULARY = 32_000
WORD = re.compile(r"[A-Za-z_]{5,}")


def write_parquet(path: Path, texts: list[str], size: int, changed: float) -> None:
    rng = random.Random(0)
    rows: list[str] = []
    total = 0
    while total < size:
        for text in texts:
            end = f"{len(rows):x}"
            new = WORD.sub(
                lambda word, end=end: word.group() + end if rng.random() < changed else word.group(), text
            )
            rows.append(new)
            total += len(new.encode())
            if total >= size:
                break
    table = {"id": pa.array(range(len(rows))), "text": pa.array(rows), "source": pa.array(["stdlib"] * len(rows))}
    pq.write_table(pa.table(table), path, compression="zstd", row_group_size=1000)


def cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def ours(path: Path, tokenizer: Path, output: Path) -> int:
    job = EncodeJob.from_config(DataConfig(train_shards=(str(path),)), Tokenizer.load(tokenizer))
    manifest, reused = prepare_tokens(job, output)
    assert not reused
    return sum(split["tokens"] for split in manifest.details["splits"].values())


def plain_loop(path: Path, tokenizer: Path, output: Path) -> int:
    encoder = PlainTokenizer.from_file(str(tokenizer / "tokenizer.json"))
    tokens = 0
    with output.open("wb") as file:
        for text in pq.read_table(path, columns=["text"]).column("text").to_pylist():
            ids = np.array([0, *encoder.encode(text, add_special_tokens=False).ids], np.uint16)
            file.write(ids.tobytes())
            tokens += len(ids)
    return tokens


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
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--peer-megabytes", type=int, default=8)
    parser.add_argument("--changed", type=float, default=0.05, help="share of the words that are made new")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the result here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = [document.text for document in open_text(["stdlib://"], DataConfig()).documents()]
        train_tokenizer(texts, vocab_size=VOCABULARY)[0].write(folder)
        write_parquet(folder / "large.parquet", texts, args.megabytes * 1_000_000, args.changed)
        write_parquet(folder / "small.parquet", texts, args.peer_megabytes * 1_000_000, args.changed)
        rates: dict[str, list[float]] = {"candlewick": [], "plain tokenizers loop": []}
        seconds: list[float] = []
        for i in range(args.repeats):
            for side, path in zip(rates, (folder / "large.parquet", folder / "small.parquet"), strict=True):
                began, wall = cpu_seconds(), time.perf_counter()
                run = ours if side == "candlewick" else plain_loop
                tokens = run(path, folder, folder / f"{side}-{i}")
                rates[side].append(tokens / (cpu_seconds() - began))
                if side == "candlewick":
                    seconds.append(time.perf_counter() - wall)
    medians = {side: float(np.median(values)) for side, values in rates.items()}
    result = {
        **machine(),
        "megabytes": args.megabytes,
        "share_of_words_changed": args.changed,
        "vocabulary": VOCABULARY,
        "tokens_per_cpu_second": {side: sorted(map(round, values)) for side, values in rates.items()},
        "wall_seconds": sorted(round(value, 2) for value in seconds),
        "ratio_of_medians": round(medians["candlewick"] / medians["plain tokenizers loop"], 1),
    }
    for side, values in rates.items():
        low, high = min(values) / 1e6, max(values) / 1e6
        print(
            f"{side:22} {medians[side] / 1e6:8.2f} million tokens per CPU-second ({low:.2f} to {high:.2f})",
            file=sys.stderr,
        )
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
