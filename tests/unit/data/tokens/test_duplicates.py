import random

import numpy as np
import pytest
from tests.prepared import plan_tasks
from tests.prepared import prepare_tokens as prepare

from candlewick.config import DataConfig
from candlewick.data.text import documents, file_ranges
from candlewick.data.text.corpus import Corpus
from candlewick.data.text.documents import TextDefects, read_documents
from candlewick.data.text.find import open_text
from candlewick.data.tokens.dataset import TokenDataset
from candlewick.data.tokens.duplicates import find_repeats, remove_duplicates

SMALL = {"shard_text_bytes": 1 << 16}


def unique(folder, **settings) -> Corpus:
    config = DataConfig(deduplicate=True, **settings)
    return remove_duplicates(open_text([str(folder)], config), 1, config.shard_text_bytes)


def kept(corpus: Corpus, **settings) -> list[str]:
    """The documents that the plan's tasks read, in order, joined from their parts."""
    whole: list[str] = []
    for task in plan_tasks(corpus, DataConfig(**settings), hold_out=False):
        for piece in task.file_ranges:
            for document in read_documents(piece, corpus.reading, TextDefects()):
                whole += [""] * document.starts_document
                whole[-1] += document.text
    return whole


def test_first_of_equal_hashes_is_kept():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 3, (500, 2)).astype(np.uint64)
    seen: set[tuple[int, ...]] = set()
    expected = [i for i, row in enumerate(hashes.tolist()) if tuple(row) in seen or seen.add(tuple(row))]
    assert find_repeats(hashes).tolist() == expected
    assert find_repeats(hashes[:0]).tolist() == []


def test_deduplication_keeps_each_document_once(write, tmp_path, core_row):
    choose = random.Random(1)
    texts = [f"text {choose.randrange(400)} with some words" + " more" * (i % 3) for i in range(900)]
    write("in/a.txt", texts[0])
    write("in/b.txt.gz", texts[0])
    write("in/c.jsonl", texts[:300])
    write("in/d.jsonl.gz", texts[300:500])
    write("in/e.parquet", texts[500:800])
    write("in/f.jsonl", [*texts[800:], "é <|endoftext|>", "é <|endoftext|>"])
    write("in/g.txt", texts[-1])
    found = kept(unique(tmp_path / "in", **SMALL), **SMALL)
    order = [texts[0], texts[0], *texts, "é <|endoftext|>", "é <|endoftext|>", texts[-1]]
    expected = list(dict.fromkeys(order))  # a plain set of Python, in order
    wrong = len(found) - len(set(found)) + len(set(expected) ^ set(found))
    core_row("data.deduplicate=true", "plain Python set, documents wrong", wrong, 0)
    assert found == expected


def test_long_documents_are_compared_over_their_full_length(write, tmp_path, monkeypatch):
    for module in (file_ranges, documents):
        monkeypatch.setattr(module, "PART_BYTES", 1 << 8)
    long = "some words and more\n" * 200
    write("in/a.jsonl", [long, long + "x", "short", long, long + "x"])
    assert kept(unique(tmp_path / "in")) == [long, long + "x", "short"]


def test_lines_are_deduplicated(write, tmp_path):
    write("in/a.txt", "one\ntwo\r\n\none\n中文\ntwo\n中文")
    assert kept(unique(tmp_path / "in", documents="line")) == ["one", "two", "中文"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_held_out_rows_are_counted_without_duplicates(write, tmp_path, tokenizer, tokenizer_dir, name):
    rows = [f"row {i}" for i in range(20)] + ["row 1"] * 10
    config = DataConfig(
        train_shards=(str(write(f"in/{name}", rows)),), deduplicate=True, validation_fraction=0.1, num_workers=1
    )
    manifest, reused = prepare(config, tokenizer_dir, tmp_path / "ds")
    assert not reused
    assert manifest.details["left_out"] == {"duplicates": 10, "copies": 0, "unanswered": 0, "bad rows": 0}
    dataset = TokenDataset.open(tmp_path / "ds")
    held = dataset.split("validation")
    assert tokenizer.decode(held.read_tokens(0, held.num_tokens).tolist()) == "row 18row 19"
    assert manifest.details["splits"]["train"]["documents"] == 18
    assert prepare(config, tokenizer_dir, tmp_path / "ds")[1]
    plain = config.replaced(deduplicate=False)
    assert prepare(plain, tokenizer_dir, tmp_path / "plain")[0].id != manifest.id
