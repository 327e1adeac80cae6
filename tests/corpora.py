"""The contents of text files, for the tests that make a corpus."""

import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tests.conftest import make_text


def jsonl(values: Iterable[Any], field: str = "text") -> bytes:
    """Return a .jsonl file with a row for each value of its only field."""
    return "".join(json.dumps({field: value}) + "\n" for value in values).encode()


def parquet(texts: Sequence[str], row_group_size: int = 50, **columns: Iterable[Any]) -> bytes:
    """Return a .parquet file with a row for each text; `columns` come after it."""
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": texts} | columns), buffer, row_group_size=row_group_size)
    return buffer.getvalue()


def exchange(question: str, answer: str) -> list[dict[str, str]]:
    """Return a chat of two messages."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def chats(count: int, first: int = 0) -> bytes:
    """Return a .jsonl file of so many different chats, from this number on."""
    numbers = range(first, first + count)
    return jsonl([exchange(make_text(i, 9), make_text(i + 7, 20)) for i in numbers], "messages")
