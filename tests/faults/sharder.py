"""The campaign over the sharder: datasets, faults of the network and kills at random, and always the same bytes.

    python -m tests.faults.sharder --count 500 --seed 0

Each scenario makes a small dataset of several files and formats from its number, shards it once from a Hub without
faults, and once from one that drops, cuts, stalls, errs and flips bits, by a process that is killed (SIGKILL) at
random moments and started again with other numbers of workers. Then both folders are the same, byte for byte, but
for the manifests' provenance; nothing else is left beside them; and the token that opens the repository is told
nowhere.
"""

import gzip
import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
from tests.corpora import jsonl, parquet
from tests.faults.attempt import start
from tests.faults.campaign import numbered, run_campaign
from tests.faults.disturbed import disturb, run_to_the_end, same_contents
from tests.hub_server import HubServer

_ALPHABET = 'abc \n\r\t{}"\\äß日本\U0001f56f\u2028\x00'
_NAME = "datasets/me/web"
_TOKEN = "hf_canaryCANARYcanary"
_NOTHING = "document came out of"  # of a side: an error with faults and without


def dataset(choose: random.Random) -> dict[str, bytes]:
    """Return the files of a dataset."""
    files: dict[str, bytes] = {}
    for number in range(choose.randint(1, 4)):
        texts = ["".join(choose.choices(_ALPHABET, k=choose.randint(0, 60))) for _ in range(choose.randint(3, 50))]
        texts[0] += "some text"
        kind = choose.choice((".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".txt"))
        if kind == ".parquet":
            content = parquet(texts, choose.randint(1, 20), id=range(len(texts)))
        elif kind == ".txt":
            content = "\n".join(text.replace("\n", " ") for text in texts).replace("\0", "").encode()
        else:
            content = jsonl(texts)
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


def scenario(number: int, folder: Path) -> Counter[str]:
    """Run one; count how it went, and its kills. Raises AssertionError if anything differs."""
    choose = random.Random(number)
    files, words = dataset(choose), flags(choose)
    chance = choose.choice((0.1, 0.3, 0.5))
    with HubServer(lfs_bytes=choose.choice((1, 500, 10**6))) as hub:
        hub.stall_seconds = 1.0
        hub.commit(_NAME, files, token=_TOKEN)
        code = _start(hub, words, folder, "clean", 0)
        if code == 3 and _NOTHING in (folder / "output").read_text():
            return Counter(refused=1)
        assert code == 0, (folder / "output").read_text()[-500:]
        disturb(hub, chance, -number)

        def killed(moment: int) -> int:
            return _start(hub, [*words, "--workers", str(choose.randint(1, 3))], folder, "faulty", moment)

        kills = run_to_the_end(killed, choose, (0, 8), folder)
    same_contents(folder / "clean", folder / "faulty")
    written = [path for name in ("clean/**/*", "faulty/**/*", "output*") for path in folder.glob(name)]
    telling = [path.name for path in written if path.is_file() and _TOKEN.encode() in path.read_bytes()]
    assert not telling, f"the token is told in {telling}"
    return Counter({"killed" if kills else "undisturbed": 1, "kills": kills})


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


if __name__ == "__main__":
    run_campaign(__doc__, numbered(scenario), 500, "scenarios", seed="number of the first scenario")
