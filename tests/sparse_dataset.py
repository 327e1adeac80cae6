"""A token dataset of any size that takes no room: files of the right sizes, all holes, and a manifest with them."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from candlewick.artifacts.manifest import MANIFEST, FileEntry, Manifest
from candlewick.data.tokens import dataset
from candlewick.data.tokens.dataset import KIND, Shard

VOCAB_SIZE = 65_536
_NO_HASH = "0" * 64


def write_sparse_dataset(folder: Path, shards: int, shard_tokens: int, documents: int = 4) -> Manifest:
    """Write a dataset of `shards` training shards, each of so many tokens 0 and of documents of one size.

    One in fifty numbers has a validation shard too. No hash is true: only a stamp of the files lets it be opened.
    """
    (folder / "shards").mkdir(parents=True)
    ends = (np.arange(1, documents + 1, dtype=np.uint64) * (shard_tokens // documents)).astype("<u8")
    ends[-1] = shard_tokens
    table, files = [], []
    for number in range(shards):
        splits = ("train", "validation") if number % 50 == 0 else ("train",)
        sizes = {f"{number:05d}.json": 1000}
        for split in splits:
            shard = Shard(f"{split}-{number:05d}", split, shard_tokens, documents, 4 * shard_tokens, 0)
            table.append(asdict(shard))
            sizes |= {f"{shard.name}.bin": 2 * shard_tokens, f"{shard.name}.idx": 8 * documents}
        for name, size in sizes.items():
            with open(folder / "shards" / name, "wb") as file:
                if name.endswith("idx"):
                    file.write(ends.tobytes())
                os.truncate(file.fileno(), size)
            files.append(FileEntry(f"shards/{name}", size, _NO_HASH))
    details: dict[str, Any] = {"vocab_size": VOCAB_SIZE, "shards": table, "holdout": "hash", "splits": {}}
    details |= {"bad_utf8": {"sequences": 0, "examples": []}, "delimiter": {"id": 0}}
    manifest = Manifest(KIND, dataset.VERSION, {"tokenizer": "a" * 64}, {}, tuple(files), details, {})
    content = json.dumps(asdict(manifest), indent=1, sort_keys=True).encode()
    (folder / MANIFEST).write_bytes(content)
    return manifest
