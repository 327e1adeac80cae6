"""The campaign over the sharder: datasets, faults of the network and kills at random, and always the same bytes.

    python -m tests.faults.sharder --count 500 --seed 0

Scenario number n is a function of n alone. Each makes a small dataset of several files and formats, shards it once
from a Hub without faults, and once from one that drops, cuts, stalls, errs and flips bits, in a process that dies
at random moments and is started again: in this process, where a death is an exception that nothing handles, every
tenth in another one, with SIGKILL. Both folders have to be the same, byte for byte.
"""

import argparse
import contextlib
import gzip
import io
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.hub_server import HubServer, Request

from candlewick.config import DataConfig
from candlewick.data import text_shards
from candlewick.data.text_shards import Outputs, ShardSettings, shard
from candlewick.errors import DataError, EnvironmentFault

_FAULTS = ("drop", "cut", "short", "429", "500", "502", "503")
_OF_FILES = (*_FAULTS, "flip", "other")
_ALPHABET = 'abc \n\r\t{}"\\äß日本\U0001f56f\u2028\x00'
_NAME = "datasets/me/web"
_MOST_STARTS = 60


class Killed(BaseException):
    """Like `kill -9`: nothing in the program handles it."""


def dataset(choose: random.Random) -> dict[str, bytes]:
    """Return the files of a dataset."""
    files: dict[str, bytes] = {}
    for number in range(choose.randint(1, 4)):
        texts = ["".join(choose.choices(_ALPHABET, k=choose.randint(0, 60))) for _ in range(choose.randint(3, 50))]
        texts[0] += "some text"
        kind = choose.choice((".parquet", ".jsonl", ".jsonl.gz", ".txt"))
        if kind == ".parquet":
            buffer = io.BytesIO()
            table = pa.table({"text": texts, "id": range(len(texts))})
            pq.write_table(table, buffer, row_group_size=choose.randint(1, 20))
            content = buffer.getvalue()
        elif kind == ".txt":
            content = "\n".join(text.replace("\n", " ") for text in texts).encode()
        else:
            content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
        files[f"data/{number:02}{kind}"] = gzip.compress(content, mtime=0) if kind.endswith(".gz") else content
    return files


def settings_of(choose: random.Random, documents: int) -> ShardSettings:
    """Return settings under which both sides get a document, almost always."""
    fraction = choose.choice((0.0, 0.3))
    return ShardSettings(
        documents_per_shard=choose.randint(1, 30),
        take=choose.choice((None, None, choose.randint(1, documents))),
        validation_fraction=fraction,
        seed=choose.randint(0, 5),
        format=choose.choice(("jsonl", "text")),
        gzip=choose.random() < 0.3,
        mode="split" if fraction else "prod",
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of the shards but what the manifests say of time and place."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.name == "manifest.json":
                manifest = json.loads(data)
                del manifest["provenance"]
                data = json.dumps(manifest, sort_keys=True).encode()
            found[path.relative_to(folder).as_posix()] = data
    return found


def scenario(number: int, folder: Path, *, real_kills: bool) -> str:
    """Run one scenario; return how it went. Raises AssertionError if the shards differ."""
    choose = random.Random(number)
    files = dataset(choose)
    settings = settings_of(choose, 20)
    uri, config = f"hf://{_NAME}", DataConfig(documents="line")
    ahead, chance = choose.randint(1, 3), choose.choice((0.05, 0.2, 0.4))
    with HubServer(lfs_bytes=choose.choice((1, 500, 10**6))) as hub, hub.client(folder / "home", timeout=0.15):
        hub.stall_seconds = 0.4
        hub.commit(_NAME, files)
        clean = Outputs(folder / "clean" / "train", folder / "clean" / "val")
        try:
            shard([uri], clean, settings, config)
        except DataError as error:  # nothing came out on one side: then with faults too
            if "document came out of" not in str(error):
                raise
            return "refused"
        plan = random.Random(-number)

        def meet(request: Request) -> str | None:
            if plan.random() >= chance:
                return None
            if plan.random() < 0.02:
                return "stall"
            return plan.choice(_FAULTS if "/api/" in request.path else _OF_FILES)

        hub.plan = meet
        words = _words(uri, folder / "faulty", settings, ahead)
        if real_kills:
            starts = _run_and_kill(words, hub.environment(folder / "home"), choose)
        else:
            outputs = Outputs(folder / "faulty" / "train", folder / "faulty" / "val")
            starts = 1
            while not _attempt(uri, outputs, settings, config, ahead, choose.choice((0, 5, 15, 40))):
                starts += 1
                assert starts < _MOST_STARTS, "it never ends"
    assert contents(folder / "faulty") == contents(folder / "clean")
    return "killed" if starts > 1 else "undisturbed"


def _attempt(
    uri: str, outputs: Outputs, settings: ShardSettings, config: DataConfig, ahead: int, moment: int
) -> bool:
    """Shard, and die at the `moment`-th write or rename (0: do not); return whether it came to its end."""
    left = [moment]
    with pytest.MonkeyPatch.context() as patch:
        places = ((text_shards, "replace_durable"), (text_shards, "publish"), (os, "fsync"))
        for module, name in places if moment else ():
            real = getattr(module, name)

            def act(*args, _real=real, **kwargs):
                left[0] -= 1
                if left[0] == 0:
                    raise Killed
                return _real(*args, **kwargs)

            patch.setattr(module, name, act)
        try:
            shard([uri], outputs, settings, config, ahead=ahead)
        except (Killed, EnvironmentFault):
            return False
        except DataError as error:
            if "tries failed" not in str(error):
                raise
            return False
    return True


def _words(uri: str, output: Path, settings: ShardSettings, ahead: int) -> list[str]:
    words = [sys.executable, "-m", "candlewick", "data", "shard", "--source", uri, "--output", str(output)]
    words += ["--lines-per-shard", str(settings.documents_per_shard), "--seed", str(settings.seed)]
    words += ["--format", settings.format, "--workers", str(ahead), "-q"]
    words += ["--take", str(settings.take)] if settings.take else []
    words += ["--mode", settings.mode]
    words += ["--val-ratio", str(settings.validation_fraction)] if settings.validation_fraction else []
    return words + (["--gzip"] if settings.gzip else [])


def _run_and_kill(words: list[str], environment: dict[str, str], choose: random.Random) -> int:
    """Start the command until it ends by itself, killing it after a random time; return how often."""
    for starts in range(1, _MOST_STARTS):
        process = subprocess.Popen(words, env={**os.environ, **environment}, stderr=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            # the first ones are killed, for the later ones the network is the only trouble
            process.wait(choose.uniform(0.3, 1.5) if starts < 4 else 120)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
        elif process.returncode == 0:
            return starts
        else:
            assert process.returncode in (3, 4), f"exit code {process.returncode}"
    raise AssertionError("it never ends")


def main() -> int:
    """Run a range of scenarios; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="number of the first scenario")
    args = parser.parse_args()
    logging.getLogger("candlewick").setLevel(logging.CRITICAL)
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    outcomes: Counter[str] = Counter()
    began = time.monotonic()
    for number in range(args.seed, args.seed + args.count):
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcomes[scenario(number, Path(folder), real_kills=number % 10 == 9)] += 1
            except AssertionError as error:
                outcomes["different"] += 1
                print(f"\nscenario {number}: {str(error)[:300]}", flush=True)
        counts = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
        print(f"\r{counts}; {(time.monotonic() - began) / outcomes.total():.2f} s each", end="", flush=True)
    print()
    return 1 if outcomes["different"] else 0


if __name__ == "__main__":
    sys.exit(main())
