"""Documents that are held out are trained on in no source of a run: twenty constructed corpora, read back.

A corpus is a list of sources, each a dictionary of files; many of their documents are copies and near-copies of
others, in the same file, in other files and in other sources.
"""

import gzip
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
from tests.conftest import make_text, tiny_config
from tests.corpora import chats, jsonl, parquet
from tests.prepared import prepare, prepare_tokens

from candlewick.config import DataConfig
from candlewick.data.shards.write import Outputs, ShardSettings, write_text_shards
from candlewick.data.text.file_ranges import Split
from candlewick.data.text.holdout import document_split, normalize
from candlewick.data.tokens.dataset import TokenDataset
from candlewick.data.tokens.overlap import count_overlap
from candlewick.errors import DataError
from candlewick.runs.complete import open_training_data
from candlewick.runs.prepare import PreparedRun
from candlewick.tokenizer.bpe import Tokenizer

Files = dict[str, bytes]


def rows(count: int, first: int = 0, words: int = 30) -> list[str]:
    return [f"{row} {make_text(row, words)}" for row in range(first, first + count)]


def files(texts: list[str], prefix: str = "") -> Files:
    return {f"{prefix}{number:04}.txt": text.encode() for number, text in enumerate(texts)}


def shouted(texts: list[str]) -> list[str]:
    """Return copies in other cases, with other spaces and punctuation."""
    return [f"  {text.upper()}".replace(" ", "\n ").replace(".", " ... ") for text in texts]


def changed(texts: list[str]) -> list[str]:
    """Return twins with one word changed, in the middle or at the end."""
    return [
        " ".join([*text.split(" ")[:at], "other", *text.split(" ")[at + 1 :]])
        for text, at in zip(texts, [15, -2] * len(texts), strict=False)
    ]


def appended(texts: list[str]) -> list[str]:
    return [f"{text} more" for text in texts]


# longer than what is hashed of a document; most characters of every other one have three bytes
LONG = [make_text(70 + number, 14_000).replace("e", "e中"[number % 2] * 2) for number in range(6)]
BOOKS = [make_text(900 + number, 3000) for number in range(4)]
CORPORA: dict[str, Callable[[], list[Files]]] = {
    # below 1,000 documents: the tails of files
    "copies of files": lambda: [files([*BOOKS, *BOOKS[:2]])],
    "copies of files in two sources": lambda: [files(BOOKS), files(BOOKS[2:], "x/")],
    "copies of files in other cases": lambda: [files([*BOOKS, *shouted(BOOKS)])],
    "files with a word appended": lambda: [files(BOOKS), files(appended(BOOKS))],
    "rows twice in a file": lambda: [{"a.jsonl": jsonl(rows(90) + rows(90))}],
    "rows of two formats": lambda: [{"a.jsonl": jsonl(rows(90))}, {"b.parquet": parquet(rows(90, 45))}],
    "the last rows first elsewhere": lambda: [{"a.jsonl": jsonl(rows(90))}, {"b.jsonl": jsonl(rows(90)[::-1])}],
    "rows with one word changed": lambda: [{"a.jsonl": jsonl(rows(90))}, {"b.jsonl": jsonl(changed(rows(90)))}],
    "rows in other cases": lambda: [{"a.jsonl": jsonl(rows(90))}, {"b.jsonl": jsonl(shouted(rows(90))[::-1])}],
    "rows as files": lambda: [{"a.jsonl": jsonl(rows(90))}, files(rows(90)[60:])],
    "a book as a file and as a row": lambda: [files(BOOKS[:1]), {"a.jsonl": jsonl(BOOKS[:1])}],
    "chats": lambda: [{"a.jsonl": chats(90)}, {"b.jsonl": chats(90, 45)}],
    "without duplicates": lambda: [{"a.jsonl": jsonl(rows(90) + rows(60))}, {"b.jsonl": jsonl(rows(50, 40))}],
    # together more: the hash of each document
    "many files and rows": lambda: [files(rows(1100)), {"a.jsonl": jsonl(rows(700, 600))}],
    "two sources below 1,000": lambda: [{"a.jsonl": jsonl(rows(700))}, {"b.jsonl": jsonl(rows(700, 350))}],
    "many rows with one word changed": lambda: [{"a.jsonl": jsonl(rows(800) + changed(rows(800)))}],
    "many rows appended to": lambda: [{"a.jsonl": jsonl(rows(800))}, {"b.jsonl": jsonl(appended(rows(800)))}],
    "many rows in other cases": lambda: [{"a.jsonl": jsonl(rows(800))}, {"b.jsonl": jsonl(shouted(rows(800)))}],
    "a large and a small source": lambda: [{"a.jsonl": jsonl(rows(3000))}, {"b.jsonl": jsonl(rows(200))}],
    "long documents": lambda: [
        files([*LONG, *BOOKS]),
        {"a.jsonl.gz": gzip.compress(jsonl([*BOOKS, *LONG, *rows(1100)]), mtime=0)},
    ],
}
SETTINGS = {
    "chats": {"format": "chat"},
    "without duplicates": {"deduplicate": True},
    "long documents": {"validation_fraction": 0.5},
    "a large and a small source": {"validation_max_tokens": 3000, "validation_fraction": 0.1},
}


def documents(dataset: TokenDataset, split: Split, tokenizer: Tokenizer) -> list[str]:
    """Return the documents of a split as texts."""
    if not dataset.has_split(split):
        return []
    part = dataset.split(split)
    ids = part.read_tokens(0, part.num_tokens).tolist()
    starts = [place for place, token in enumerate(ids) if token == part.delimiter_id]
    return [
        tokenizer.decode(ids[low + 1 : high], skip_special=False) for low, high in pairwise([*starts, len(ids)])
    ]


@pytest.fixture
def prepare_corpus(tmp_path, tokenizer_folder):
    """Prepare a corpus by its name, each source as one of a mixture."""

    def run(name: str) -> PreparedRun:
        corpus = CORPORA[name]()
        for number, source in enumerate(corpus):
            for file, content in source.items():
                path = tmp_path / str(number) / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        data = {"mixture": [{"shards": [str(tmp_path / str(number))]} for number in range(len(corpus))]}
        data |= {"train_shards": [], "cache_dir": str(tmp_path / "cache"), "shard_text_bytes": 1 << 16}
        data |= {"validation_fraction": 0.05, "num_workers": 1} | SETTINGS.get(name, {})
        return prepare(
            tiny_config(tmp_path, tmp_path, tokenizer={"tokenizer_json": str(tokenizer_folder)}, data=data)
        )

    return run


def texts(run: PreparedRun, split: Split) -> list[str]:
    """Return the documents of a split of all sources."""
    return [text for dataset in run.datasets.values() for text in documents(dataset, split, run.tokenizer)]


@pytest.mark.parametrize("name", CORPORA)
def test_no_document_that_is_held_out_is_trained_on(name, prepare_corpus):
    run = prepare_corpus(name)
    train, held_out = texts(run, "train"), texts(run, "validation")
    assert train
    assert held_out
    assert not set(held_out) & set(train)
    assert not {normalize(text) for text in held_out} & {normalize(text) for text in train}


@pytest.mark.parametrize("name", ["copies of files", "copies of files in two sources"])
def test_ends_of_copied_files_are_part_of_no_training_text(name, prepare_corpus):
    run = prepare_corpus(name)
    train = texts(run, "train")
    assert not [text for text in texts(run, "validation") if any(text in document for document in train)]


def test_rows_that_are_held_out_elsewhere_are_counted(prepare_corpus):
    run = prepare_corpus("the last rows first elsewhere")
    copies = [dataset.manifest.details["left_out"]["copies"] for dataset in run.datasets.values()]
    assert sum(copies) == 2 * 90 - len(texts(run, "train")) - len(texts(run, "validation"))
    assert min(copies) > 0


@pytest.mark.parametrize("name", ["many rows with one word changed", "many rows appended to"])
def test_near_copies_are_counted_and_no_exact_one(name, prepare_corpus):
    data = open_training_data(prepare_corpus(name))
    found = [count_overlap(data.train, split) for split in data.validation_splits.values()]
    assert sum(overlap.exact for overlap in found) == 0
    assert sum(overlap.near for overlap in found) > 9


HEADER, FOOTER = make_text(1, 400), make_text(2, 400)


def rows_of(path: Path, texts: list[str], format: Literal["text", "chat"] = "text") -> DataConfig:
    path.write_bytes(jsonl(texts) if format == "text" else b"".join(chat(HEADER, text) for text in texts))
    return DataConfig(train_shards=(str(path),), validation_fraction=0.1, num_workers=1, format=format)


def chat(system: str, question: str) -> bytes:
    """Return a chat with one answer to all questions."""
    turns = {"system": system, "user": question, "assistant": FOOTER}
    messages = [{"role": role, "content": content} for role, content in turns.items()]
    return (json.dumps({"messages": messages}) + "\n").encode()


@pytest.mark.parametrize("format", ["text", "chat"])
def test_documents_with_one_long_beginning_are_on_both_sides(format, tmp_path, tokenizer, caplog):
    texts = [f"{HEADER} {text}" if format == "text" else text for text in rows(1200)]
    details = prepare_tokens(rows_of(tmp_path / "a.jsonl", texts, format), tokenizer, tmp_path / "out")[0].details
    assert 80 < details["splits"]["validation"]["documents"] < 160
    assert "share one beginning" not in caplog.text


@pytest.mark.parametrize(("alike", "start"), [(1200, 0), (1200, 1), (900, 0), (900, 1)])
def test_documents_with_one_beginning_and_end_are_counted(alike, start, tmp_path, tokenizer, caplog):
    """They are on one side: which one, the footer decides."""
    ends = [f"{FOOTER} {number}" for number in range(99)]
    sides = [document_split(f"{HEADER} {end}", 0.1) for end in ends]
    end = ends[sides.index("validation" if start else "train")]
    texts = [f"{HEADER} {row} {end}" for row in range(alike)] + rows(1200 - alike)
    config, count = (
        rows_of(tmp_path / "a.jsonl", texts),
        f"{alike:,} of 1,200 documents share one beginning and end",
    )
    if alike == 1200:
        side = "training" if start else "validation"
        with pytest.raises(DataError, match=f"no {side} text .*a.jsonl: {count} .*data.validation_shards"):
            prepare_tokens(config, tokenizer, tmp_path / "out")
    else:
        prepare_tokens(config, tokenizer, tmp_path / "out")
        assert f"documents are held out, some 120 were wanted: {count}" in caplog.text


@pytest.mark.parametrize("alike", [1200, 900])
def test_shards_of_documents_with_one_beginning_and_end_are_counted(alike, tmp_path, caplog):
    texts = [f"{HEADER} {row} {FOOTER}" for row in range(alike)] + rows(1200 - alike)
    config, outputs = rows_of(tmp_path / "a.jsonl", texts), Outputs(tmp_path / "train", tmp_path / "val")
    count = f"{alike:,} of 1,200 documents share one beginning and end"
    if alike == 1200:
        with pytest.raises(DataError, match=f"no (training|validation) document .*a.jsonl: {count}"):
            write_text_shards(config.train_shards, outputs, ShardSettings(validation_fraction=0.1), config)
    else:
        write_text_shards(config.train_shards, outputs, ShardSettings(validation_fraction=0.1), config)
        assert f"documents are held out, some 120 were wanted: {count}" in caplog.text
