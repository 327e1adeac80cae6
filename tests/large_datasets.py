"""Token datasets of many shards: small ones that can be trained on, and any size as files that are all holes."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from candlewick.artifacts.manifest import FileEntry, Manifest, publish, staging
from candlewick.data.tokens.dataset import KIND, VERSION, Shard, stamp_path
from candlewick.tokenizer.bpe import Tokenizer


def write_many_shards(folder: Path, shards: int, tokenizer: Tokenizer) -> None:
    """Write so many shards of one document of 40 tokens, one in ten of them for validation."""
    with staging(folder) as aside:
        (aside / "tokenizer").mkdir()
        (aside / "shards").mkdir()
        files = [replace(entry, name=f"tokenizer/{entry.name}") for entry in tokenizer.write(aside / "tokenizer")]
        table: list[Shard] = []
        for number in range(shards):
            split = "train" if number % 10 else "validation"
            table.append(Shard(f"{split}-{number:05d}", split, 40, 1, 160, tokenizer.vocab_size - 1))
            tokens = (np.arange(40) * (number % 7 + 1) + 1).astype(np.uint16) % 250
            tokens[0] = tokenizer.delimiter_id
            for extension, array in (("bin", tokens), ("idx", np.array([40], "<u8"))):
                path, content = aside / "shards" / f"{table[-1].name}.{extension}", array.tobytes()
                path.write_bytes(content)
                sha256 = hashlib.sha256(content).hexdigest()
                files.append(FileEntry(f"shards/{path.name}", len(content), sha256))
        publish(
            aside, folder, _manifest(tokenizer.sha256, tokenizer.vocab_size, tokenizer.delimiter_id, table, files)
        )


def write_sparse_dataset(folder: Path, shards: int, shard_tokens: int) -> None:
    """Write so many training shards of tokens 0, all holes, with four documents; one in fifty for validation too.

    The hashes are none: a stamp says that they were checked.
    """
    ends = np.array([1, 2, 3, shard_tokens], "<u8").tobytes()
    table: list[Shard] = []
    with staging(folder) as aside:
        (aside / "shards").mkdir()

        def write() -> Iterator[FileEntry]:
            for number in range(shards):
                sizes = {f"{number:05d}.json": 1000}  # the receipt of a task
                for split in ("train", "validation")[: 2 if number % 50 == 0 else 1]:
                    table.append(Shard(f"{split}-{number:05d}", split, shard_tokens, 4, 4 * shard_tokens, 0))
                    sizes |= {f"{table[-1].name}.bin": 2 * shard_tokens, f"{table[-1].name}.idx": len(ends)}
                for name, size in sizes.items():
                    (aside / "shards" / name).write_bytes(ends if name.endswith("idx") else b"")
                    os.truncate(aside / "shards" / name, size)
                    yield FileEntry(f"shards/{name}", size, "0" * 64)

        files = [*write()]
        manifest = publish(aside, folder, _manifest("a" * 64, 1 << 16, 0, table, files))
    stamp = stamp_path(folder, manifest)
    assert stamp is not None
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.touch()


def _manifest(
    tokenizer: str, vocab_size: int, delimiter_id: int, table: list[Shard], files: list[FileEntry]
) -> Manifest:
    details: dict[str, Any] = {"vocab_size": vocab_size, "delimiter": {"id": delimiter_id}, "holdout": "hash"}
    details |= {"splits": {}, "bad_utf8": {"sequences": 0, "examples": []}}
    details["shards"] = [asdict(shard) for shard in table]
    return Manifest(KIND, VERSION, {"tokenizer": tokenizer}, {}, tuple(files), details, {})
