"""What a URI names: files of any extension, folders, patterns, the standard library, the Hub."""

import os
import sysconfig
from pathlib import Path

import pytest
from tests.hub_server import HubServer

from candlewick.config import DataConfig
from candlewick.data.text.find import open_text
from candlewick.errors import DataError
from candlewick.hub import open_repo

CONFIG = DataConfig()


def names(*uris: Path | str, config=CONFIG) -> list[str]:
    return [file.name for file in open_text([str(uri) for uri in uris], config).files]


@pytest.mark.parametrize(
    ("name", "documents", "kind", "compression"),
    [
        ("a.txt", "file", "text", None),
        ("a.txt", "line", "lines", None),
        ("a.txt.gz", "line", "lines", "gzip"),
        ("a.jsonl.zst", "file", "jsonl", "zstd"),
        ("a.b.JSONL", "line", "jsonl", None),
        ("notes.md", "file", "text", None),
        ("main.rs", "file", "text", None),
        ("Makefile", "line", "lines", None),
        (".config", "file", "text", None),
    ],
)
def test_a_named_file_is_read_whatever_its_extension(write, name, documents, kind, compression):
    file = open_text([str(write(name, "x"))], DataConfig(documents=documents)).files[0]
    assert (file.name, file.kind, file.compression) == (name, kind, compression)


def test_corpus_keeps_the_order_of_the_uris(write):
    b, a = write("b.txt", "b"), write("a.txt", "a")
    assert names(b, a) == ["b.txt", "a.txt"]


def test_a_pattern_names_files_by_name_at_any_depth(write, tmp_path, monkeypatch):
    for name in ("a.md", "b.txt", "docs/c.md", "docs/old/d.md"):
        write(name, "x")
    (tmp_path / "z.md").symlink_to("a.md")
    assert names(f"{tmp_path}/*.md") == [f"{tmp_path}/a.md"]
    assert names(f"{tmp_path}/**/*.md") == [
        f"{tmp_path}/{name}" for name in ("a.md", "docs/c.md", "docs/old/d.md")
    ]
    monkeypatch.chdir(tmp_path)
    assert names("docs/[cd].md", "?.txt") == ["docs/c.md", "b.txt"]
    with pytest.raises(DataError, match=r"no file matches docs/\*\.rs .*\*\* stands for folders"):
        names("docs/*.rs")


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(write):
    assert names(write("a[1].txt", "x")) == ["a[1].txt"]


def test_include_and_exclude_are_of_folders_only(write, tmp_path):
    config = DataConfig(include=("*.md",), exclude=("b.md",))
    for name in ("a.md", "b.md", "c.txt"):
        write(f"in/{name}", "x")
    assert names(tmp_path / "in", config=config) == ["a.md"]
    assert names(tmp_path / "in" / "c.txt", config=config) == ["c.txt"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("word".encode("utf-16"), r"a\.md is UTF-16 \(fix: convert it: iconv -f UTF-16 -t UTF-8 .*a\.md > "),
        (b"", r"a\.md is empty"),
        (b"PK\x03\x04", r"a\.md is a zip archive \(fix: unpack it"),
        (b"\x1f\x8b\x08", r"a\.md is compressed by gzip \(fix: name it \.gz"),
    ],
)  # fmt: skip
def test_a_named_file_that_is_not_text_is_refused_with_the_fix(write, raw, message):
    with pytest.raises(DataError, match=message):
        names(write("a.md", raw))


def test_stdlib_uri_opens_the_standard_library(monkeypatch):
    corpus = open_text(["stdlib://"], CONFIG)
    found = [file.name for file in corpus.files]
    assert 3e6 < sum(file.bytes for file in corpus.files) < 30e6
    assert "stdlib://json/decoder.py" in found
    assert found == sorted(found, key=lambda name: name.removeprefix("stdlib://").removesuffix(".py").split("/"))
    for part in ("/test/", "/tests/", "idlelib", "lib2to3", "ensurepip", "_sysconfigdata", "site-packages"):
        assert not any(part in name for name in found)
    assert next(iter(corpus.documents())).source == found[0]
    assert open_text(["stdlib://"], CONFIG).fingerprint == corpus.fingerprint


def test_stdlib_uri_without_a_standard_library_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError, match=r"stdlib://: this interpreter has no source files"):
        open_text(["stdlib://"], CONFIG)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("hf://HuggingFaceFW/fineweb", "hf://HuggingFaceFW/fineweb is a model, not a dataset"),
        ("s3://bucket/x", "s3://bucket/x is not a source of format"),
        ("missing.txt", r"missing\.txt does not exist"),
        ("missing/", "missing does not exist"),
    ],
)
def test_wrong_uri_is_refused_by_name(uri, message):
    with pytest.raises(DataError, match=message):
        open_text([uri], CONFIG)


def test_empty_list_of_uris_is_refused():
    with pytest.raises(DataError, match=r"no text was given .*data\.train_shards"):
        open_text([], CONFIG)


def test_a_pipe_or_a_device_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(DataError, match="is not a regular file .*write it to a file first"):
            names(path)


def test_duplicate_file_is_refused_by_whichever_names(write, tmp_path, hub: HubServer):
    path = write("in/a.txt", "x")
    (tmp_path / "b.txt").symlink_to(path)
    for second in (path.parent, tmp_path / "b.txt"):
        with pytest.raises(DataError, match=r"a\.txt is given twice"):
            names(path, second)
    hub.commit("datasets/o/n", {"a.txt": b"x"})
    with pytest.raises(DataError, match=r"hf://datasets/o/n@\w+/a\.txt is given twice"):
        names("hf://datasets/o/n", "hf://datasets/o/n/a.txt")


def test_files_of_the_hub_are_found_but_not_downloaded(hub: HubServer):
    hub.commit("datasets/o/n", {"train.txt": b"x" * 9, "validation.jsonl": b"{}"})
    (file,) = open_text(["hf://datasets/o/n"], CONFIG).files
    assert (file.kind, file.bytes, file.hub is not None, file.path) == ("text", 9, True, Path())
    assert file.max_text_bytes == 64 << 20
    assert file.name.startswith("hf://datasets/o/n@")
    assert file.name.endswith("/train.txt")
    (file,) = open_text(["hf://datasets/o/n"], CONFIG, "validation").files
    assert file.kind == "jsonl"
    (file,) = open_text(["hf://datasets/o/n"], DataConfig(hub_split="validation")).files
    assert file.kind == "jsonl"
    assert not hub.asked("GET .*/resolve/.*txt")


def test_a_pinned_revision_is_resolved_by_whoever_opens_it(hub: HubServer):
    hub.commit("datasets/o/n", {"a.txt": b"x"})
    asked = []
    corpus = open_text(["hf://datasets/o/n"], CONFIG, open_repo=lambda uri: asked.append(uri) or open_repo(uri))
    assert len(corpus.files) == len(asked) == 1


def test_files_behind_a_pattern_that_are_no_text_are_left_out_and_told(write, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.chdir(tmp_path)
    write("src/a.py", "x = 1")
    write("src/__init__.py", "")
    write("src/b.py", b"\0\1\2binary" * 9)
    assert [file.name for file in open_text(["src/*.py"], DataConfig()).files] == ["src/a.py"]
    assert "src/*.py: 1 files; left out: 1 empty, 1 binary" in caplog.text
    with pytest.raises(DataError, match=r"no text matches src/_\*.py \(left out: 1 empty\)"):
        open_text(["src/_*.py"], DataConfig())


def test_a_pattern_leaves_rows_without_text_out_as_a_folder_does(write, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    write("a.jsonl", '{"text": "x"}\n')
    write("b.jsonl", '{"body": "x"}\n')
    write("c.json", "[ // a comment\n]")
    assert [(file.name, file.kind) for file in open_text(["*.json*"], DataConfig()).files] == [
        ("a.jsonl", "jsonl"),
        ("c.json", "text"),
    ]
    assert (
        "*.json*: 1 files are left out: rows without 'text', the first: b.jsonl (fix: set data.tex" in caplog.text
    )
    with pytest.raises(DataError, match=r"no text matches b\*.*set data\.text_field to one of its columns: body"):
        open_text(["b*"], DataConfig())
    write("tokens/part-1", b"\1\0")
    assert names("tokens/part-*", config=DataConfig(format="tokens")) == ["tokens/part-1"]
