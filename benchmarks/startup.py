"""Seconds from the command to the first update, warm, of this tree and of another commit in turns.

    python benchmarks/startup.py --base feef26f --times 5

The profile m3_medium on a text that is prepared already, and the resume of a run. Each start is a process of its
own that ends where its first update would begin; beside it the time of `import torch`, a part of every start.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START = """
import os, sys
from candlewick.cli.main import main
from candlewick.train.trainer import Trainer
def begin(self, *_):
    os._exit(0)
if os.environ["UNTIL"] == "update":
    for name in ("_step", "_train_step"):
        if hasattr(Trainer, name):
            setattr(Trainer, name, begin)
sys.exit(main(sys.argv[1:]))
"""


def checkout(commit: str, folder: Path) -> Path:
    """Write the package of a commit into a folder, and return the folder of its sources."""
    archive = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder / "src"


def start(source: Path, words: list[str], until: str = "update") -> float:
    """Run one start and return its seconds."""
    env = {**os.environ, "PYTHONPATH": str(source), "UNTIL": until}
    began = time.perf_counter()
    command = [sys.executable, "-c", START, *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return time.perf_counter() - began


def cases(folder: Path, sources: dict[str, Path]) -> dict[str, dict[str, list[str]]]:
    """Prepare text and runs; return for each case the command of each tree."""
    text = folder / "text.txt"
    pages = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))]
    text.write_text("".join(pages) * 8, encoding="utf-8")
    found: dict[str, dict[str, list[str]]] = {"fresh": {}, "resume": {}}
    for name, source in sources.items():
        run, cache = folder / name, folder / f"{name}-cache"
        settings = {"data.train_shards": [str(text)], "data.cache_dir": str(cache), "tokenizer.vocab_size": 4096}
        settings |= {"scheduler.total_steps": 1, "runtime.sample": None, "runtime.checkpoint.every_n_steps": 1}
        words = ["train", "--config", "m3_medium"]
        for key, value in settings.items():
            words += ["--override", f"{key}={json.dumps(value)}"]
        start(source, [*words, "--run-dir", str(run)], "end")
        found["fresh"][name] = [*words, "--run-dir", str(folder / f"{name}-new")]
        more = ["--override", "scheduler.total_steps=2"]
        found["resume"][name] = ["train", "--run-dir", str(run), "--resume", *more]
    return found


def main() -> None:
    """Print the median seconds of each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="feef26f")
    parser.add_argument("--times", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        base = folder / "base"
        base.mkdir()
        sources = {args.base: checkout(args.base, base), "this tree": ROOT / "src"}
        commands = cases(folder, sources)
        seconds: dict[tuple[str, str], list[float]] = {}
        for _ in range(args.times):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", "import torch"], check=True)
            seconds.setdefault(("import torch", ""), []).append(time.perf_counter() - began)
            for case, by_tree in commands.items():
                for name, words in by_tree.items():
                    seconds.setdefault((case, name), []).append(start(sources[name], words))
        for (case, name), values in seconds.items():
            each = ", ".join(f"{value:.2f}" for value in values)
            print(f"{case:>14} {name:>10}  {statistics.median(values):6.2f} s  ({each})")


if __name__ == "__main__":
    main()
