import os

import pytest
from tests.hub_server import HubServer

from candlewick.config import DataConfig
from candlewick.data.text.corpus import content_hash
from candlewick.data.text.find import open_text
from candlewick.errors import DataError

CONFIG = DataConfig()


def test_corpus_documents_come_from_all_files(write, tmp_path):
    write("a.txt", "one")
    write("b.jsonl", ["two", "three"])
    corpus = open_text([str(tmp_path)], CONFIG)
    assert [(d.text, d.source) for d in corpus.documents()] == [
        ("one", "a.txt"),
        ("two", "b.jsonl"),
        ("three", "b.jsonl"),
    ]


def test_corpus_fingerprint_depends_on_names_and_contents_only(write, tmp_path):
    for folder in ("x", "y"):
        write(f"{folder}/a.txt", "one")
        write(f"{folder}/b/c.txt", "two")
    os.utime(tmp_path / "y/a.txt", (0, 0))
    x, y = (open_text([str(tmp_path / name)], CONFIG).fingerprint for name in "xy")
    assert x == y
    write("y/b/c.txt", "twp")
    changed = open_text([str(tmp_path / "y")], CONFIG).fingerprint
    (tmp_path / "y/a.txt").rename(tmp_path / "y/d.txt")
    renamed = open_text([str(tmp_path / "y")], CONFIG).fingerprint
    assert len({x, changed, renamed}) == 3


def test_fingerprint_of_hub_text_depends_on_the_content_not_on_the_commit(hub: HubServer):
    hub.commit("datasets/o/n", {"a.txt": b"one"})
    corpus = open_text(["hf://datasets/o/n"], CONFIG)
    assert not corpus.is_local
    assert [row[:2] for row in corpus.rows] == [["o/n/a.txt", 3]]
    hub.commit("datasets/o/n", {"a.txt": b"one", "README.md": b"new"})
    assert open_text(["hf://datasets/o/n"], CONFIG).fingerprint == corpus.fingerprint
    hub.commit("datasets/o/n", {"a.txt": b"two"})
    assert open_text(["hf://datasets/o/n"], CONFIG).fingerprint != corpus.fingerprint


def test_a_file_that_changed_after_it_was_found_has_no_hash(write):
    corpus = open_text([str(write("a.txt", "before"))], CONFIG)
    assert corpus.is_local
    write("a.txt", "after it")
    with pytest.raises(DataError, match="changed while it was being used"):
        content_hash(corpus.files[0])
    with pytest.raises(DataError, match="changed while it was being used"):
        _ = corpus.fingerprint
