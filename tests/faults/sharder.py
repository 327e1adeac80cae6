"""The campaign over the sharder: datasets, faults of the network and kills at random, and always the same bytes.

    python -m tests.faults.sharder --count 500 --seed 0

Each scenario makes a small dataset of several files and formats from its number, shards it once from a Hub without
faults, and once from one that drops, cuts, stalls, errs and flips bits, by a process that is killed (SIGKILL) at
random moments and started again with other numbers of workers. Then both folders are the same, byte for byte, but
for the manifests' provenance; nothing else is left beside them; and the token that opens the repository is told
nowhere.
"""

import argparse
import gzip
import io
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tests.faults.attempt import start
from tests.hub_server import HubServer, Request

_FAULTS = ("drop", "cut", "short", "429", "500", "502", "503")
_OF_FILES = (*_FAULTS, "flip", "flip", "other", "other")
_ALPHABET = 'abc \n\r\t{}"\\äß日本\U0001f56f\u2028\x00'
_NAME = "datasets/me/web"
_TOKEN = "hf_canaryCANARYcanary"
_MOST_STARTS = 60
_GAVE_UP = ("another network", "run it again")  # bytes that stay wrong, a network that stays away
_NOTHING = "document came out of"  # of a side: an error with faults and without


def dataset(choose: random.Random) -> dict[str, bytes]:
    """Return the files of a dataset."""
    files: dict[str, bytes] = {}
    for number in range(choose.randint(1, 4)):
        texts = ["".join(choose.choices(_ALPHABET, k=choose.randint(0, 60))) for _ in range(choose.randint(3, 50))]
        texts[0] += "some text"
        kind = choose.choice((".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".txt"))
        if kind == ".parquet":
            buffer = io.BytesIO()
            table = pa.table({"text": texts, "id": range(len(texts))})
            pq.write_table(table, buffer, row_group_size=choose.randint(1, 20))
            content = buffer.getvalue()
        elif kind == ".txt":
            content = "\n".join(text.replace("\n", " ") for text in texts).replace("\0", "").encode()
        else:
            content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
        if kind.endswith(".gz"):
            content = gzip.compress(content, mtime=0)
        elif kind.endswith(".zst"):
            content = pa.Codec("zstd").compress(content, asbytes=True)
        files[f"data/{number:02}{kind}"] = content
    return files


def flags(choose: random.Random) -> list[str]:
    """Return flags that decide the shards; nearly always both sides get a document."""
    words = ["--lines-per-shard", str(choose.randint(1, 30)), "--seed", str(choose.randint(0, 5))]
    words += choose.choice((["--mode", "prod"], ["--mode", "split", "--val-ratio", "0.3"]))
    words += ["--format", choose.choice(("jsonl", "text"))]
    words += choose.choice(([], [], ["--take", str(choose.randint(1, 60))]))
    return words + choose.choice(([], [], ["--gzip"]))


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of the shards but what the manifests say of time and place."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*")):
        data = path.read_bytes() if path.is_file() else b"a folder"
        if path.name == "manifest.json":
            manifest = json.loads(data)
            del manifest["provenance"], manifest["sha256"]
            data = json.dumps(manifest, sort_keys=True).encode()
        found[path.relative_to(folder).as_posix()] = data
    return found


def scenario(number: int, folder: Path) -> tuple[str, int]:
    """Run one; return how it went and how often it was killed. Raises AssertionError if anything differs."""
    choose = random.Random(number)
    files, words = dataset(choose), flags(choose)
    chance = choose.choice((0.1, 0.3, 0.5))
    kills = 0
    with HubServer(lfs_bytes=choose.choice((1, 500, 10**6))) as hub:
        hub.stall_seconds = 1.0
        hub.commit(_NAME, files, token=_TOKEN)
        code = _start(hub, words, folder, "clean", 0)
        if code == 3 and _NOTHING in (folder / "output").read_text():
            return "refused", 0
        assert code == 0, (folder / "output").read_text()[-500:]
        faults = random.Random(-number)

        def meet(request: Request) -> str | None:
            if faults.random() >= chance:
                return None
            if faults.random() < 0.02:
                return "stall"
            return faults.choice(_FAULTS if "/api/" in request.path else _OF_FILES)

        hub.plan = meet
        for attempted in range(_MOST_STARTS):
            # any moment for the first ones; then only the network troubles it
            moment = int(2 ** choose.uniform(0, 8)) if attempted < choose.randint(1, 6) else 0
            code = _start(hub, [*words, "--workers", str(choose.randint(1, 3))], folder, "faulty", moment)
            if code == 0:
                break
            said = (folder / "output").read_text()
            (folder / "output").rename(folder / f"output-{attempted}")
            gave_up = code in (3, 4) and any(fix in said for fix in _GAVE_UP)
            assert code == -9 or gave_up, f"exit code {code}: {said[-500:]}"
            kills += code == -9
        assert code == 0, "it never ends"
    clean, faulty = contents(folder / "clean"), contents(folder / "faulty")
    unlike = sorted(name for name in clean.keys() | faulty.keys() if clean.get(name) != faulty.get(name))
    assert not unlike, f"not the same: {unlike[:5]}"
    outputs = [path.read_bytes() for path in folder.glob("output*")]
    written = b"".join([*clean.values(), *faulty.values(), *outputs])
    assert _TOKEN.encode() not in written, "the token is told"
    return "killed" if kills else "undisturbed", kills


def _start(hub: HubServer, words: list[str], folder: Path, name: str, moment: int) -> int:
    own = [
        "data",
        "shard",
        "--source",
        f"hf://{_NAME}",
        "--output",
        str(folder / name),
        "--hf-token",
        _TOKEN,
        "-q",
    ]
    return start([*own, *words], hub.url, folder, moment)


def main() -> int:
    """Run a range of scenarios; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="number of the first scenario")
    args = parser.parse_args()
    outcomes: Counter[str] = Counter()
    kills, began = 0, time.monotonic()
    for number in range(args.seed, args.seed + args.count):
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcome, killed = scenario(number, Path(folder))
                outcomes[outcome] += 1
                kills += killed
            except AssertionError as error:
                outcomes["different"] += 1
                print(f"\nscenario {number}: {str(error)[:1000]}", flush=True)
        counts = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
        seconds = (time.monotonic() - began) / outcomes.total()
        print(f"\r{counts}; {kills} kills; {seconds:.2f} s each", end="", flush=True)
    print()
    return 1 if outcomes["different"] else 0


if __name__ == "__main__":
    sys.exit(main())
