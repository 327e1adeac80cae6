import logging
import os
import sysconfig
from pathlib import Path

import pytest

from candlewick.config import DataConfig
from candlewick.data.text import corpus as sources
from candlewick.data.text.corpus import open_corpus
from candlewick.errors import DataError

CONFIG = DataConfig()


def names(*uris: Path | str, config=CONFIG) -> list[str]:
    return [file.name for file in open_corpus([str(uri) for uri in uris], config).files]


def test_folder_is_read_recursively_by_name_without_hidden_files(write, tmp_path):
    for name in ["b.txt", "a/z.jsonl.gz", "a/b.txt.zst", ".hidden.txt", ".git/x.txt", "a/.b.txt", "c.parquet"]:
        write(name, ["x"] if "parquet" in name else "x")
    write("empty.txt", "")
    assert names(tmp_path) == ["a/b.txt.zst", "a/z.jsonl.gz", "b.txt", "c.parquet"]


def test_other_files_in_a_folder_are_left_out_and_counted(write, tmp_path, caplog):
    write("a.txt", "x")
    write("README.md", "x")
    write("b.parquet.gz", "x")
    with caplog.at_level(logging.INFO):
        assert names(tmp_path) == ["a.txt"]
    assert "2 files with other extensions are left out" in caplog.text


@pytest.mark.parametrize(
    ("name", "documents", "kind", "compression"),
    [
        ("a.txt", "file", "text", None),
        ("a.txt", "line", "lines", None),
        ("a.txt.gz", "line", "lines", "gzip"),
        ("a.jsonl.zst", "file", "jsonl", "zstd"),
        ("a.b.jsonl", "line", "jsonl", None),
    ],
)
def test_extension_and_config_select_how_a_file_is_read(write, name, documents, kind, compression):
    file = open_corpus([str(write(name, "x"))], DataConfig(documents=documents)).files[0]
    assert (file.name, file.kind, file.compression) == (name, kind, compression)


def test_corpus_keeps_the_order_of_the_uris(write):
    b, a = write("b.txt", "b"), write("a.txt", "a")
    assert names(b, a) == ["b.txt", "a.txt"]


def test_corpus_documents_come_from_all_files(write, tmp_path):
    write("a.txt", "one")
    write("b.jsonl", ["two", "three"])
    corpus = open_corpus([str(tmp_path)], CONFIG)
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
    x, y = (open_corpus([str(tmp_path / name)], CONFIG).fingerprint for name in "xy")
    assert x == y
    write("y/b/c.txt", "twp")
    changed = open_corpus([str(tmp_path / "y")], CONFIG).fingerprint
    (tmp_path / "y/a.txt").rename(tmp_path / "y/d.txt")
    renamed = open_corpus([str(tmp_path / "y")], CONFIG).fingerprint
    assert len({x, changed, renamed}) == 3


def test_stdlib_uri_opens_the_standard_library(monkeypatch):
    corpus = open_corpus(["stdlib://"], CONFIG)
    found = [file.name for file in corpus.files]
    assert 3e6 < sum(file.bytes for file in corpus.files) < 30e6
    assert "stdlib://json/decoder.py" in found
    assert found == sorted(found, key=lambda name: name.removeprefix("stdlib://").removesuffix(".py").split("/"))
    for part in ("/test/", "/tests/", "idlelib", "lib2to3", "ensurepip", "_sysconfigdata", "site-packages"):
        assert not any(part in name for name in found)
    assert next(iter(corpus.documents())).source == found[0]
    assert open_corpus(["stdlib://"], CONFIG).fingerprint == corpus.fingerprint


def test_stdlib_uri_without_a_standard_library_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError, match=r"stdlib://: this interpreter has no source files"):
        open_corpus(["stdlib://"], CONFIG)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("hf://HuggingFaceFW/fineweb", "hf://HuggingFaceFW/fineweb is not a source of format"),
        ("s3://bucket/x", "s3://bucket/x is not a source of format"),
        ("missing.txt", r"missing\.txt does not exist"),
        ("missing/", "missing does not exist"),
    ],
)
def test_wrong_uri_is_refused_by_name(uri, message):
    with pytest.raises(DataError, match=message):
        open_corpus([uri], CONFIG)


def test_empty_list_of_uris_is_refused():
    with pytest.raises(DataError, match=r"no text was given .*data\.train_shards"):
        open_corpus([], CONFIG)


def test_file_with_an_unknown_extension_is_refused(write):
    with pytest.raises(DataError, match=r"a\.csv has an unknown extension .*\.txt \.jsonl \.parquet"):
        open_corpus([str(write("a.csv", "x"))], CONFIG)
    with pytest.raises(DataError, match=r"a\.parquet\.gz has an unknown extension"):
        open_corpus([str(write("a.parquet.gz", "x"))], CONFIG)


def test_empty_file_is_refused_by_name(write):
    with pytest.raises(DataError, match=r"a\.txt is empty"):
        open_corpus([str(write("a.txt", ""))], CONFIG)


def test_folder_without_text_is_refused_by_name(write, tmp_path):
    write("empty.txt", "")
    write("a.md", "x")
    with pytest.raises(DataError, match=r"has no text, only 1 other files"):
        open_corpus([str(tmp_path)], CONFIG)


@pytest.mark.parametrize("manifest", ["{}", "{", "[]", '{"shards": []}', "[" * 9999])
def test_artifact_folder_is_refused_as_text(write, tmp_path, manifest):
    write("manifest.json", manifest)
    write("a.txt", "x")
    with pytest.raises(DataError, match=r"is an artifact \(manifest\.json lies in it\), not text"):
        open_corpus([str(tmp_path)], CONFIG)


def test_duplicate_file_is_refused(write, tmp_path):
    path = write("a.txt", "x")
    with pytest.raises(DataError, match=r"a\.txt is given twice"):
        open_corpus([str(path), str(tmp_path)], CONFIG)


def test_unreadable_file_is_refused_by_name(write, monkeypatch):
    monkeypatch.setattr(sources.os, "access", lambda path, mode: False)
    with pytest.raises(DataError, match=r"a\.txt cannot be read .*permissions"):
        open_corpus([str(write("a.txt", "x"))], CONFIG)


@pytest.mark.parametrize(
    ("manifest", "is_text"),
    [
        ('{"shards": [], "total_lines": 0}', True), ('{"shards": [], "total_lines": 0, "x": 1}', True),
        ('{"shards": []}', False), ("[]", False), ("{", False), ("[" * 100_000, False),
    ],
)  # fmt: skip
def test_a_plain_list_of_shards_is_text_and_other_manifests_are_not(tmp_path, manifest, is_text):
    (tmp_path / "manifest.json").write_text(manifest)
    assert sources.is_text_artifact(tmp_path) is is_text


def test_a_file_that_changed_after_it_was_found_has_no_hash(write):
    corpus = open_corpus([str(write("a.txt", "before"))], CONFIG)
    write("a.txt", "after it")
    with pytest.raises(DataError, match="changed while it was being used"):
        _ = corpus.hashes
