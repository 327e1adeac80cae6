"""A small tokenizer, and files of every kind, for the tests of `data`."""

import bz2
import gzip
import lzma
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.corpora import jsonl

from candlewick.config import DataConfig
from candlewick.data.text.file_ranges import TextFile
from candlewick.data.text.find import open_text
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.train import train_tokenizer

_COMPRESS = {
    ".gz": gzip.compress,
    ".zst": lambda raw: pa.Codec("zstd").compress(raw, asbytes=True),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


@pytest.fixture(scope="session")
def tokenizer(text_dir) -> Tokenizer:
    texts = [path.read_text() for path in sorted(text_dir.glob("*.txt"))]
    return train_tokenizer(texts, vocab_size=500)[0]


@pytest.fixture(scope="session")
def tokenizer_dir(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.write(folder)
    return folder


@pytest.fixture
def write(tmp_path):
    """Write a file of any kind from bytes or rows; return its path."""

    def write_file(name: str, content: bytes | str | list) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list) and ".parquet" in name:
            pq.write_table(pa.table({"id": range(len(content)), "text": content}), path, row_group_size=7)
            return path
        if isinstance(content, list):
            content = jsonl(content)
        raw = content.encode() if isinstance(content, str) else content
        path.write_bytes(_COMPRESS.get(path.suffix.lower(), bytes)(raw))
        return path

    return write_file


@pytest.fixture
def source(write):
    """Write a file and return it as a TextFile."""

    def make(name: str, content: bytes | str | list, documents: Literal["file", "line"] = "file") -> TextFile:
        return open_file(write(name, content), documents=documents)

    return make


@pytest.fixture
def table(tmp_path):
    """Write a column of text as a .parquet or .arrow file, or as a stream; return it as a TextFile."""

    def make(name: str, column: Any, field: str = "text", **settings: Any) -> TextFile:
        path, own = tmp_path / name, pa.table({field: column})
        if name.endswith(".parquet"):
            pq.write_table(own, path, **settings)
        else:
            new = pa.ipc.new_stream if "stream" in name else pa.ipc.new_file
            with new(str(path), own.schema) as writer:
                writer.write_table(own, **settings)
        return open_file(path)

    return make


def open_file(path: Path, **settings: Any) -> TextFile:
    return open_text([str(path)], DataConfig.model_validate(settings)).files[0]
