"""Token datasets of each kind of text have the ids that `tests/golden/datasets.json` lists.

python -m tests.integration.test_frozen_datasets     writes the file, for a version that is meant to differ
"""

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import make_text
from tests.corpora import chats, jsonl, parquet
from tests.hub_server import HubServer
from tests.prepared import prepare_tokens

from candlewick.config import DataConfig
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.train import train_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "datasets.json"


def rows(seed: int, count: int, words: int = 60) -> list[str]:
    return [f"{seed} {row}: {make_text(1000 * seed + row, words)}" for row in range(count)]


HUB = {f"data/{n:03}.parquet": parquet(rows(n, 300)) for n in range(3)} | {"data/003.jsonl": jsonl(rows(3, 90))}
TEXTS: dict[str, tuple[dict[str, bytes], dict]] = {
    "many files": ({f"{i:04}.txt": make_text(i, 30).encode() for i in range(1100)}, {}),
    "few files": (
        {
            "a.txt": make_text(1, 90_000).encode(),
            "b.txt": make_text(2, 900).encode(),
            "c.txt.gz": gzip.compress(make_text(3, 9000).encode(), mtime=0),
        },
        {},
    ),
    "lines": ({"a.txt": "\n".join(rows(1, 1500)).encode(), "b.jsonl": jsonl(rows(2, 90))}, {"documents": "line"}),
    "rows": ({"a.jsonl": jsonl(rows(1, 900)), "b.parquet": parquet(rows(2, 400))}, {}),
    "few rows": ({"a.jsonl": jsonl(rows(1, 200)), "b.parquet": parquet(rows(2, 300))}, {}),
    "duplicates": ({"a.jsonl": jsonl(rows(1, 900) + rows(1, 300)), "b.txt": b"x" * 999}, {"deduplicate": True}),
    "chats": ({"a.jsonl": chats(1200)}, {"format": "chat"}),
    "bad bytes": ({"a.txt": make_text(1, 9000).encode() + b"\xff\xfe " + b"end " * 9}, {"bad_utf8": "replace"}),
}
STREAMS: dict[str, dict] = {
    "whole": {},
    "tokens": {"max_tokens": 20_000},
    "documents": {"max_documents": 450},
    "half held out": {"validation_fraction": 0.5, "max_tokens": 9000},
}


def make_tokenizer() -> Tokenizer:
    return train_tokenizer([make_text(seed, 3000) for seed in range(3)], vocab_size=500)[0]


def local_id(name: str, tokenizer: Tokenizer, folder: Path) -> str:
    files, settings = TEXTS[name]
    source = folder / "text"
    source.mkdir()
    for file, content in files.items():
        (source / file).write_bytes(content)
    text: dict[str, Any] = {
        "train_shards": (str(source),),
        "shard_text_bytes": 1 << 16,
        "validation_fraction": 0.05,
    }
    return prepare_tokens(DataConfig(**text | settings), tokenizer, folder / "tokens")[0].id


def stream_id(name: str, tokenizer: Tokenizer, folder: Path) -> str:
    (folder / "own.txt").write_bytes(make_text(5, 4000).encode())
    text = {"train_shards": ("hf://datasets/me/web", str(folder / "own.txt")), "shard_text_bytes": 1 << 16}
    text |= {"validation_fraction": 0.05, "num_workers": 1}
    return prepare_tokens(DataConfig(**text | STREAMS[name]), tokenizer, folder / "tokens")[0].id


@pytest.fixture(scope="module")
def golden() -> dict[str, str]:
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def own() -> Tokenizer:
    return make_tokenizer()


@pytest.mark.parametrize("name", TEXTS)
def test_dataset_of_local_text_has_its_frozen_id(name, golden, own, tmp_path):
    assert local_id(name, own, tmp_path) == golden[name]


@pytest.mark.parametrize("name", STREAMS)
def test_dataset_of_streamed_text_has_its_frozen_id(name, golden, own, hub, tmp_path):
    hub.commit("datasets/me/web", HUB)
    assert stream_id(name, own, tmp_path) == golden[f"stream, {name}"]


def _write(folder: Path) -> None:
    def each(names: dict, find: Callable[[str, Tokenizer, Path], str], prefix: str) -> dict[str, str]:
        ids: dict[str, str] = {}
        for number, name in enumerate(names):
            (folder / f"{prefix}{number}").mkdir()
            ids[prefix + name] = find(name, make_tokenizer(), folder / f"{prefix}{number}")
        return ids

    with HubServer() as hub, hub.client(folder):
        hub.commit("datasets/me/web", HUB)
        ids = each(TEXTS, local_id, "") | each(STREAMS, stream_id, "stream, ")
    GOLDEN.write_text(json.dumps(ids, indent=1) + "\n")


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
