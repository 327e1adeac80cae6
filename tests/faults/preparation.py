"""The campaign over preparation: texts, kills and faults of the network at random, and always the same dataset.

    python -m tests.faults.preparation --count 300 --seed 0

Each scenario makes text of this disk, of the Hub, or both from its number, in several files and formats, and
settings: limits, held-out or given validation text, duplicates, chats. It prepares the text once undisturbed, and
once by processes that are killed (SIGKILL) at random moments and started again with other numbers of workers, from
a Hub that drops, cuts, stalls, errs and flips bits; some kills tear the end off the journal, as a power cut may.
Then both datasets are the same, byte for byte, but for the manifest's provenance, and nothing else is left.

Worker processes are threads of the process that is killed, so that kills fall between their steps too, and a start
takes no second; in every 25th scenario they are processes.
"""

import gzip
import json
import random
from collections import Counter
from functools import cache
from pathlib import Path

from tests.corpora import exchange, jsonl, parquet
from tests.faults.attempt import start
from tests.faults.campaign import numbered, run_campaign
from tests.faults.disturbed import disturb, run_to_the_end, same_contents
from tests.hub_server import HubServer

from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.train import train_tokenizer

_NAME = "datasets/me/web"
_URI = f"hf://{_NAME}"
_WORDS = (
    "the of and to in is was that for it with as his on be at by had not are Straße 日本 naïve\u2028 \t".split(" ")
)
_NOTHING = "text came out of"  # of a side: an error with faults and without


@cache
def tokenizer() -> Tokenizer:
    """Return the tokenizer of all scenarios."""
    choose = random.Random(0)
    return train_tokenizer([" ".join(choose.choices(_WORDS, k=3000))], vocab_size=310)[0]


def texts(choose: random.Random, count: int) -> list[str]:
    """Return documents, of which some are copies of each other."""
    made = [" ".join(choose.choices(_WORDS, k=choose.randint(1, 160))) for _ in range(count)]
    return [choose.choice(made) if choose.random() < 0.1 else text for text in made]


def file(choose: random.Random, is_chat: bool) -> tuple[str, bytes]:
    """Return the extension and the content of a file with up to 200 kB of text."""
    documents = texts(choose, choose.choice((1, 30, 200, 500)))
    if is_chat:
        return ".jsonl", jsonl([exchange(text, "yes") for text in documents], "messages")
    kind = choose.choice((".parquet", ".jsonl", ".jsonl.gz", ".txt", ".txt.gz"))
    if kind == ".parquet":
        return kind, parquet(documents, choose.randint(20, 200))
    content = "\n".join(documents).encode() if ".txt" in kind else jsonl(documents)
    return kind, gzip.compress(content, mtime=0) if kind.endswith(".gz") else content


def files(choose: random.Random, folder: str, is_chat: bool) -> dict[str, bytes]:
    """Return one to four files."""
    made = [file(choose, is_chat) for _ in range(choose.randint(1, 4))]
    return {f"{folder}/{number:02}{kind}": content for number, (kind, content) in enumerate(made)}


def command(choose: random.Random, hub: HubServer, folder: Path) -> list[str]:
    """Write the text of a scenario; return the words of its preparation without output and workers."""
    is_chat = choose.random() < 0.15
    sources = choose.choice(([_URI], [_URI], ["local"], [_URI, "local"]))
    remote = files(choose, "data", is_chat) if _URI in sources else {}
    local = files(choose, "local", is_chat) if "local" in sources else {}
    settings = {"shard_text_bytes": 1 << 16, "validation_fraction": 0.2, "format": "chat" if is_chat else "text"}
    settings["documents"] = choose.choice(("file", "line"))
    if choose.random() < 0.3:
        settings["validation_shards"] = json.dumps([f"{_URI}/held" if remote else str(folder / "held")])
        (remote if remote else local).update(files(choose, "held", is_chat))
    if choose.random() < 0.3:
        settings["max_tokens"] = choose.choice((1, 3000, 30_000))
    if choose.random() < 0.3:
        settings["max_documents"] = choose.randint(1, 900)
    if not remote and choose.random() < 0.4:
        settings["deduplicate"] = "true"
    for name, content in local.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if remote:
        hub.commit(_NAME, remote)
    (folder / "tokenizer").mkdir()
    tokenizer().write(folder / "tokenizer")
    uris = [f"{_URI}/data" if uri == _URI else str(folder / uri) for uri in sources]
    overrides = [word for key, value in settings.items() for word in ("--override", f"data.{key}={value}")]
    return ["data", "prepare", *uris, "--tokenizer", str(folder / "tokenizer"), "-q", *overrides]


def scenario(number: int, folder: Path) -> Counter[str]:
    """Run one; count how it went, and its kills. Raises AssertionError if anything differs."""
    choose = random.Random(number)
    chance = choose.choice((0.1, 0.3, 0.5))
    with HubServer(lfs_bytes=choose.choice((1, 5000, 10**7))) as hub:
        hub.stall_seconds = 1.0
        words = command(choose, hub, folder)
        in_threads = number % 25 != 0

        def prepare(name: str, workers: int, moment: int) -> int:
            own = "--workers", str(workers), "--output", str(folder / name)
            return start([*words, *own], hub.url, folder, moment, in_threads=in_threads)

        def killed(moment: int) -> int:
            code = prepare("faulty", choose.randint(1, 3), moment)
            if code and choose.random() < 0.2:
                _tear(folder / "faulty.partial" / "train-journal.jsonl", choose)
            return code

        code = prepare("clean", 1, 0)
        if code == 3 and _NOTHING in (folder / "output").read_text():
            return Counter(refused=1)
        assert code == 0, (folder / "output").read_text()[-500:]
        disturb(hub, chance, -number)
        kills = run_to_the_end(killed, choose, (2, 8.5), folder)
    same_contents(folder / "clean", folder / "faulty")
    left = {path.name for path in folder.iterdir() if "faulty" in path.name} - {"faulty"}
    assert not left, f"left behind: {left}"
    return Counter({"killed" if kills else "undisturbed": 1, "kills": kills})


def _tear(journal: Path, choose: random.Random) -> None:
    if journal.exists():
        content = journal.read_bytes()
        journal.write_bytes(content[: choose.randint(0, len(content))])


if __name__ == "__main__":
    run_campaign(__doc__, numbered(scenario), 300, "scenarios", seed="number of the first scenario")
