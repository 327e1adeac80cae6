"""Preparation of text of this tree and of another commit in turns; sampling, and sharding of many small files.

    python benchmarks/text.py --base feef26f --megabytes 200 --times 3

CPU-seconds are those of the process and of all its workers, their start included. The text is the standard
library's in pieces of 4,000 characters, with a share of the words changed in each repetition. The case `sample`
compares a tokenizer's sample of a gigabyte, out of ten, with reading a gigabyte; `small` shards and prepares
20,000 files of 400 bytes; `gigabyte` gives the peak memory of preparing 1 GB.
"""

import argparse
import json
import os
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
WORD = re.compile(r"[A-Za-z_]{5,}")
PREPARE = """
import resource, sys, time
from pathlib import Path
if __name__ == "__main__":
    from candlewick.config import DataConfig
    source, tokenizer, output = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    config, began = DataConfig(train_shards=(source,)), time.perf_counter()
    try:
        from candlewick.data.tokens.prepare import EncodeJob, prepare_tokens
        from candlewick.tokenizer.bpe import Tokenizer
        manifest = prepare_tokens(EncodeJob.from_config(config, Tokenizer.load(tokenizer)), output)[0]
    except ModuleNotFoundError:  # before the redesign
        from candlewick.data.prepare import prepare
        manifest = prepare(config, tokenizer, output)[0]
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(u.ru_utime + u.ru_stime for u in usages)
    # ru_maxrss of a process counts what the process that started it had
    own = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
    tokens = sum(split["tokens"] for split in manifest.details["splits"].values())
    print(tokens, cpu, time.perf_counter() - began, own >> 10, usages[1].ru_maxrss >> 10)
"""
SHARD = """
import sys, time
from pathlib import Path
from candlewick.cli.main import main
began = time.perf_counter()
main(["data", "shard", "--source", sys.argv[1], "--documents", "file", "--output", sys.argv[3], "-q"])
print(0, 0, time.perf_counter() - began, 0, 0)
"""
SAMPLE = """
import sys, time
from candlewick.config import DataConfig
from candlewick.data.text.find import open_text
from candlewick.data.text.sample import sample_documents
corpus = open_text([sys.argv[1]], DataConfig())
began = time.process_time()
size = sum(len(document.text) for document in sample_documents(corpus, int(sys.argv[2])))
print(size, time.process_time() - began, 0, 0, 0)
"""


def pieces(megabytes: int) -> list[str]:
    """Return pieces of text, some words of which are new in each repetition."""
    texts = [path.read_text(errors="ignore") for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))]
    choose, found, size, turn = random.Random(0), list[str](), 0, 0
    while size < megabytes * 1_000_000:
        for text in texts:
            turn += 1
            end = f"{turn:x}"
            new = WORD.sub(lambda w, end=end: w.group() + end if choose.random() < 0.05 else w.group(), text)
            found += [new[low : low + 4000] for low in range(0, len(new), 4000)]
            size += len(new)
    return found


def write(folder: Path, texts: list[str]) -> None:
    """Write the texts in each form."""
    table = pa.table({"id": range(len(texts)), "text": texts})
    pq.write_table(table, folder / "a.parquet", compression="zstd", row_group_size=1000)
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "txt").mkdir()
    for number in range(200):
        (folder / "txt" / f"{number}.txt").write_text("".join(texts[number::200]))
    for number in range(20_000):
        path = folder / "small" / f"{number // 1000:02}" / f"{number:05}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[number % len(texts)][:400])


def run(code: str, source: Path, *words: object) -> list[float]:
    """Run code with the package in `source` in a process of its own; return the numbers that it prints."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "script.py"
        script.write_text(code)
        env = {**os.environ, "PYTHONPATH": str(source)}
        command = [sys.executable, str(script), *map(str, words)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return [float(word) for word in done.stdout.split()[-5:]]


def main() -> None:
    """Print the medians of both trees and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="feef26f")
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--cases", default="parquet,jsonl,txt,small,sample,gigabyte")
    arguments = parser.parse_args()
    cases = arguments.cases.split(",")
    print(platform.processor() or platform.machine(), os.cpu_count(), "cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = subprocess.run(
            ["git", "archive", arguments.base, "src"], cwd=ROOT, capture_output=True, check=True
        )
        subprocess.run(["tar", "-x", "-C", name], input=archive.stdout, check=True)
        trees = {arguments.base: folder / "src", "now": ROOT / "src"}
        texts = pieces(arguments.megabytes)
        write(folder, texts)
        _train_tokenizer(texts[:5000], folder / "tokenizer")
        for case in cases:
            if case in ("parquet", "jsonl", "txt", "small"):
                text = folder / (f"a.{case}" if case in ("parquet", "jsonl") else case)
                found: dict[str, list[list[float]]] = {tree: [] for tree in trees}
                for _ in range(arguments.times):
                    for tree, source in trees.items():
                        output = folder / "output"
                        found[tree].append(run(PREPARE, source, text, folder / "tokenizer", output))
                        shutil.rmtree(output)
                column = 2 if case == "small" else 1
                medians = {tree: statistics.median(row[column] for row in rows) for tree, rows in found.items()}
                ratio = medians["now"] / medians[arguments.base]
                unit = "seconds" if case == "small" else "CPU-seconds"
                print(f"prepare {case}: {medians} {unit}, now / before {ratio:.3f}")
                if case == "small":
                    seconds = [run(SHARD, trees["now"], text, 0, folder / f"shards{i}")[2] for i in range(2)]
                    print(f"shard small: {seconds} s, sharding / preparing {min(seconds) / medians['now']:.2f}")
        if "sample" in cases:
            _sample(folder, texts, trees["now"], arguments.times)
        if "gigabyte" in cases:
            with (folder / "gigabyte.jsonl").open("w") as file:
                for _ in range(-(-1000 // arguments.megabytes)):
                    file.write((folder / "a.jsonl").read_text())
            figures = run(PREPARE, trees["now"], folder / "gigabyte.jsonl", folder / "tokenizer", folder / "g")
            print(
                f"prepare 1 GB: {figures[2]:.1f} s, peak MiB of the process {figures[3]}, of a worker {figures[4]}"
            )


def _sample(folder: Path, texts: list[str], source: Path, times: int) -> None:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    with (folder / "ten.jsonl").open("w") as ten, (folder / "one.jsonl").open("w") as one:
        for number in range(-(-10_000_000_000 // len(lines))):
            ten.write(lines)
            if (number + 1) * len(lines) < 1_100_000_000:
                one.write(lines)
    ratios: list[float] = []
    for _ in range(times):
        taken, seconds, *_ = run(SAMPLE, source, folder / "ten.jsonl", 1 << 30)
        whole, reading, *_ = run(SAMPLE, source, folder / "one.jsonl", 1 << 40)
        ratios.append(seconds / taken / (reading / whole))
    print(f"sample of 10 GB, CPU-seconds per byte taken / reading all of 1 GB: {statistics.median(ratios):.3f}")
    (folder / "ten.jsonl").unlink()


def _train_tokenizer(texts: list[str], folder: Path) -> None:
    from candlewick.tokenizer.train import train_tokenizer

    folder.mkdir()
    train_tokenizer(texts, vocab_size=16_000)[0].write(folder)


if __name__ == "__main__":
    main()
