"""A small tokenizer, and files of every kind, for the tests of `data`."""

import gzip
import json
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from candlewick.config import DataConfig
from candlewick.data.text.corpus import open_corpus
from candlewick.data.text.file_ranges import SourceFile
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.train import train_tokenizer


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
            content = "".join(json.dumps({"text": text}) + "\n" for text in content)
        raw = content.encode() if isinstance(content, str) else content
        if name.endswith(".gz"):
            raw = gzip.compress(raw)
        elif name.endswith(".zst"):
            raw = pa.Codec("zstd").compress(raw, asbytes=True)
        path.write_bytes(raw)
        return path

    return write_file


@pytest.fixture
def source(write):
    """Write a file and return it as a SourceFile."""

    def make(name: str, content: bytes | str | list, documents: Literal["file", "line"] = "file") -> SourceFile:
        config = DataConfig(documents=documents)
        return open_corpus([str(write(name, content))], config).files[0]

    return make
