"""The demo against nanoGPT: the same text, tokenizer, validation split, cores, and seconds of training.

    ours      candlewick train --config demo, as `make demo` does it
    README    nanoGPT with the settings of its README for a computer without a GPU
    grid      nanoGPT with 3 sizes x 3 learning rates x 2 batches, at our sequence length, with fused AdamW and
              an allocator that keeps its pages
    best      the best cell of the grid again, with the other seeds, and compiled

Runs take turns, one process at a time, so that a slow hour hits both sides. Each finished run is written to
the result file at once; started again with the same arguments, the script goes on where it stopped. nanoGPT is
read from a folder that you give (https://github.com/karpathy/nanoGPT); nothing of it is part of this package.
"""

import argparse
import hashlib
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from candlewick.config.load import load_config
from candlewick.data.tokens.dataset import TokenDataset

HERE = Path(__file__).resolve().parent
SIZES = {
    "2x128": {"n_layer": 2, "n_head": 2, "n_embd": 128},  # the demo's own
    "3x96": {"n_layer": 3, "n_head": 3, "n_embd": 96},
    "4x128": {"n_layer": 4, "n_head": 4, "n_embd": 128},
}
LEARNING_RATES = (1e-3, 3e-3, 9e-3)
BATCH_TOKENS = (1024, 4096)
README = {**SIZES["4x128"], "block_size": 64, "rows": 12, "learning_rate": 1e-3, "fused": False, "compile": False}
QUIET_MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 28),
    "GOMP_SPINCOUNT": "10000",  # see docs/decisions/0004
}
Run = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout of nanoGPT")
    parser.add_argument(
        "--dataset", type=Path, default=Path("runs/demo/tokens"), help="token dataset; default the demo's"
    )
    parser.add_argument("--seconds", type=float, default=150.0, help="training time of each run; default 150")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of ours and of the best cell; default 3")
    parser.add_argument("--output", type=Path, help="result file; default results/nanogpt-DATE.json here")
    args = parser.parse_args()
    if not (args.nanogpt / "model.py").is_file():
        parser.error(
            f"--nanogpt {args.nanogpt} has no model.py: give a checkout of nanoGPT (make bench NANOGPT=DIR)"
        )
    today = datetime.now(UTC).date().isoformat()
    output = args.output or HERE / "results" / f"nanogpt-{today}.json"
    bench = Bench(args, output)
    bench.run_all()
    print(bench.table())


class Bench:
    """The runs that are done, and how to do one."""

    def __init__(self, args: argparse.Namespace, output: Path) -> None:
        self.args, self.output = args, output
        self.block_size = load_config("demo").sequence_length
        self.dataset = TokenDataset.open(args.dataset)
        self.setup = setup(args, self.dataset.id)
        self.runs: list[Run] = []
        if output.is_file() and (old := json.loads(output.read_text()))["setup"] == self.setup:
            self.runs = old["runs"]

    def run_all(self) -> None:
        """Do every run that is not done, ours spread evenly between the peer's."""
        seeds = range(self.args.seeds)
        cells = [("README", README), *grid(self.block_size)]
        with tempfile.TemporaryDirectory() as folder:
            data = write_peer_data(self.dataset, Path(folder))
            for seed in seeds:
                self.ours(seed)
                for name, settings in cells[seed :: len(seeds)]:
                    self.peer(f"grid {name}" if name != "README" else name, settings, 0, data)
            name, settings = self.best_cell()
            if shutil.which("g++") or shutil.which("clang++"):  # torch.compile needs one
                self.peer(f"best {name} compiled", {**settings, "compile": True}, 0, data)
            for seed in seeds[1:]:
                self.peer("README", README, seed, data)
                self.peer(f"grid {name}", settings, seed, data)

    def ours(self, seed: int) -> None:
        """Run `candlewick train` with the demo's settings."""
        if self.done("ours", seed):
            return
        with tempfile.TemporaryDirectory() as folder:
            override = {
                "data.train_shards": json.dumps([str(self.args.dataset.resolve())]),
                "scheduler.total_seconds": self.args.seconds,
                "runtime.seed": seed,
            }
            command = [sys.executable, "-m", "candlewick", "train", "--config", "demo", "--run-dir", folder]
            command += [
                "--json",
                *(word for key, value in override.items() for word in ("--override", f"{key}={value}")),
            ]
            result = call(command, {})
        self.record(
            "ours",
            seed,
            {
                "bits_per_byte": result["metrics"]["final/bits_per_byte"],
                **{key: result[key] for key in ("steps", "tokens", "train_seconds")},
            },
        )

    def peer(self, name: str, settings: dict, seed: int, data: Path) -> None:
        """Run nanoGPT, for as long as our slowest run trained if that was longer than asked for."""
        if self.done(name, seed):
            return
        seconds = max([self.args.seconds, *(run["train_seconds"] for run in self.runs if run["name"] == "ours")])
        command = [sys.executable, str(HERE / "nanogpt_peer.py"), "--nanogpt", str(self.args.nanogpt.resolve())]
        command += ["--data", str(data), "--settings", json.dumps(settings), "--seconds", str(seconds)]
        result = call([*command, "--seed", str(seed)], QUIET_MALLOC if settings["fused"] else {})
        self.record(name, seed, {**result, "settings": settings})

    def best_cell(self) -> tuple[str, dict]:
        """Return name and settings of the best cell of the grid."""
        best = min(
            (run for run in self.runs if run["name"].startswith("grid")), key=lambda run: run["bits_per_byte"]
        )
        return best["name"].removeprefix("grid "), best["settings"]

    def done(self, name: str, seed: int) -> bool:
        return any((run["name"], run["seed"]) == (name, seed) for run in self.runs)

    def record(self, name: str, seed: int, result: Run) -> None:
        facts = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "load": os.getloadavg()[0]}
        self.runs.append({"name": name, "seed": seed, **facts, **result})
        document = {"setup": self.setup, "commit": commit(), "runs": self.runs}
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.output.write_text(json.dumps(document, indent=1) + "\n")
        print(f"{name:<28} seed {seed}  {result['bits_per_byte']:.4f} bits per byte", file=sys.stderr)

    def table(self) -> str:
        """Return the result as a Markdown table, best first; several seeds give median and range."""
        by_name: dict[str, list[Run]] = {}
        for run in self.runs:
            by_name.setdefault(run["name"], []).append(run)
        lines = [
            "| run | bits per byte | seeds | updates | tokens/s | training seconds |",
            "|---|---|---|---|---|---|",
        ]
        for name, runs in sorted(by_name.items(), key=lambda item: median(item[1], "bits_per_byte")):
            values = [run["bits_per_byte"] for run in runs]
            span = f" ({min(values):.4f} to {max(values):.4f})" if len(values) > 1 else ""
            speed = median(runs, "tokens") / median(runs, "train_seconds")
            lines.append(
                f"| {name} | {statistics.median(values):.4f}{span} | {len(runs)} | {median(runs, 'steps'):,.0f} "
                f"| {speed:,.0f} | {median(runs, 'train_seconds'):.1f} |"
            )
        return "\n".join(lines)


def grid(block_size: int) -> Iterator[tuple[str, dict]]:
    """Yield (name, settings) of the 18 cells."""
    for size, rate, tokens in itertools.product(SIZES, LEARNING_RATES, BATCH_TOKENS):
        yield (
            f"{size} lr {rate:g} batch {tokens}",
            {
                **SIZES[size],
                "block_size": block_size,
                "rows": max(1, tokens // block_size),
                "learning_rate": rate,
                "fused": True,
                "compile": False,
            },
        )


def write_peer_data(dataset: TokenDataset, folder: Path) -> Path:
    """Write train.bin and val.bin as nanoGPT wants them, and what the peer has to know about them."""
    train, validation = dataset.split("train"), dataset.split("validation")
    for name, split in (("train.bin", train), ("val.bin", validation)):
        with (folder / name).open("wb") as file:
            for tokens in split.shards:
                if tokens.dtype != np.uint16:
                    raise SystemExit("nanoGPT reads 16-bit tokens: take a vocabulary of at most 65,536")
                tokens.tofile(file)
            # our evaluation goes around in a circle: the first token is the target of the last
            split.shards[0][:1].tofile(file)
    facts = {
        "vocab_size": dataset.vocab_size,
        "validation_tokens": validation.num_tokens,
        "validation_bytes": validation.num_bytes,
    }
    (folder / "data.json").write_text(json.dumps(facts))
    return folder


def setup(args: argparse.Namespace, dataset_id: str) -> dict[str, object]:
    """Return what makes two results comparable: hardware, versions, data, and the code of both sides."""
    nanogpt = b"".join((args.nanogpt / name).read_bytes() for name in ("model.py", "train.py"))
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "dataset": dataset_id,
        "nanogpt_sha256": hashlib.sha256(nanogpt).hexdigest(),
        "demo_profile": load_config("demo").model_dump(mode="json"),
        "seconds": args.seconds,
        "seeds": args.seeds,
        "command": f"python benchmarks/nanogpt.py --nanogpt DIR --seconds {args.seconds} --seeds {args.seeds}",
    }


def processor() -> str:
    """Return the processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def commit() -> str:
    """Return the commit of this checkout, marked if files differ from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def call(command: list[str], environment: dict[str, str]) -> dict:
    """Run a program that prints one JSON document; its standard error is shown only if it fails."""
    began = time.monotonic()
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(
            f"failed after {time.monotonic() - began:.0f} s: {' '.join(command)}\n{done.stderr[-3000:]}"
        )
    return json.loads(done.stdout)


def median(runs: list[Run], key: str) -> float:
    return statistics.median(run[key] for run in runs)


if __name__ == "__main__":
    main()
