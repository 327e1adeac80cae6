"""What is text in a folder, what is left out, and the line that tells it."""

import gzip
import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from candlewick.artifacts.manifest import MANIFEST, Manifest, publish, staging
from candlewick.data.text.folders import find_in_folder, is_text_artifact
from candlewick.data.text.reading import Reading
from candlewick.errors import DataError


def names(folder, reading=Reading(), include=(), exclude=()) -> list[str]:  # noqa: B008 - it is frozen
    return [file.name for file in find_in_folder(folder, reading, include, exclude)]


@pytest.fixture
def told(caplog):
    """Return the line of a folder."""
    caplog.set_level(logging.INFO)

    def line(folder) -> str:
        caplog.clear()
        names(folder)
        (line,) = (record.getMessage() for record in caplog.records if record.levelname == "INFO")
        return line.removeprefix(f"{folder}: ")

    return line


@pytest.fixture
def artifact(tmp_path):
    """Write an artifact of Candlewick with a file of text in it."""

    def make(name: str, kind: str, **config: str):
        folder = tmp_path / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        with staging(folder) as aside:
            (aside / "shard.txt").write_text("one\ntwo\n")
            publish(aside, folder, Manifest(kind, 1, {}, config, (), {}, {}))
        return folder

    return make


def test_folder_is_read_by_name_at_any_depth_without_hidden_files(write, tmp_path):
    for name in ["b.txt", "a/z.jsonl.gz", "a/b.txt.zst", ".hidden.txt", ".git/x.txt", "a/.b.txt", "c.parquet"]:
        write(name, ["x"] if "parquet" in name or "jsonl" in name else "x")
    assert names(tmp_path) == ["a/b.txt.zst", "a/z.jsonl.gz", "b.txt", "c.parquet"]


def test_one_line_tells_what_was_taken_and_what_was_left_out(write, tmp_path, told):
    for number in range(3):
        write(f"{number}.md", "x" * 50_000)
    write("LICENSE", "x")
    write("a/b.PY", "x")
    for name in ("1.png", "2.png", "c.so"):
        write(f"a/{name}", b"\x89PNG\0\0")
    write("empty", "")
    write("old.txt", "é".encode("utf-16"))
    write("x.partial/a.txt", "x")
    (tmp_path / "b.csv.gz").write_bytes(b"damaged, or never was one")
    assert told(tmp_path) == (
        "5 files, 0.2 MB: .md 3, without extension 1, .py 1; "
        "left out: 3 binary, 1 damaged, or not gzip, 1 empty, 1 UTF-16, 1 unfinished"
    )


def test_a_web_app_with_a_manifest_is_a_folder_of_text(write, tmp_path, told):
    write("app/manifest.json", '{"name": "app", "icons": []}')
    write("app/index.html", "<html>")
    assert names(tmp_path) == ["app/index.html", "app/manifest.json"]
    assert names(tmp_path / "app") == ["index.html", "manifest.json"]
    assert told(tmp_path / "app") == "2 files, 0.0 MB: .html 1, .json 1"


@pytest.mark.parametrize("manifest", ["{}", "{", "[]", '{"shards": []}', "[" * 9999])
def test_a_manifest_of_another_program_is_plain_text(write, tmp_path, manifest):
    write("manifest.json", manifest)
    assert names(tmp_path) == ["manifest.json"]


def test_include_and_exclude_are_patterns_of_gitignore(write, tmp_path):
    for name in ("a.md", "b.txt", "docs/c.md", "docs/old/d.md", "src/e.py", "README"):
        write(name, "x")
    assert names(tmp_path, include=["*.md"]) == ["a.md", "docs/c.md", "docs/old/d.md"]
    assert names(tmp_path, include=["/docs/**"]) == ["docs/c.md", "docs/old/d.md"]
    assert names(tmp_path, include=["*.md", "*.py"], exclude=["old/"]) == ["a.md", "docs/c.md", "src/e.py"]
    assert names(tmp_path, exclude=["*.md", "!c.md", "src"]) == ["README", "b.txt", "docs/c.md"]
    with pytest.raises(DataError, match=r"has no text \(0 files, 0\.0 MB: ; left out: 6 excluded\)"):
        names(tmp_path, include=["*.rs"])


def test_gitignore_of_every_folder_is_honored_the_nearest_one_first(write, tmp_path, told):
    write(".gitignore", "*.log\n/build/\n# comment\nsecret.txt\n")
    write("a/.gitignore", "!keep.log\nlocal.txt\n")
    write("a/b/.gitignore", "keep.log\n")
    for name in ("a.txt", "x.log", "a/keep.log", "a/x.log", "a/local.txt", "a/b/keep.log", "a/b/secret.txt"):
        write(name, "x")
    write("build/a.txt", "x")
    write("a/build/a.txt", "x")
    write("b/local.txt", "x")
    assert names(tmp_path) == ["a/build/a.txt", "a/keep.log", "a.txt", "b/local.txt"]
    assert told(tmp_path).endswith("left out: 6 in .gitignore")


def test_linked_folders_and_files_are_followed_once(write, tmp_path, told):
    write("in/a.txt", "x")
    write("in/sub/b.txt", "x")
    write("elsewhere/c.txt", "x")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "sub" / "up").symlink_to("..")
    (tmp_path / "in" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "more-again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "z.txt").symlink_to("a.txt")
    (tmp_path / "in" / "gone.txt").symlink_to("nowhere")
    assert names(tmp_path / "in") == ["a.txt", "more/c.txt", "sub/b.txt"]
    assert "1 links to files that are taken" in told(tmp_path / "in")


def test_artifacts_of_other_kinds_inside_a_folder_are_left_out(write, tmp_path, artifact, told):
    write("in/a.txt", "x")
    artifact("in/tokens", "tokens")
    artifact("in/run/step_1", "checkpoint")
    artifact("in/step_2", "checkpoint")
    assert names(tmp_path / "in") == ["a.txt"]
    assert told(tmp_path / "in").endswith("left out: 2 folders of checkpoint, 1 folders of tokens")
    with pytest.raises(DataError, match=r"tokens holds tokens, not text .*a folder of text"):
        names(tmp_path / "in" / "tokens")


def test_text_shards_in_a_folder_are_read_by_lines_and_held_out_ones_left_out(write, tmp_path, artifact, told):
    write("in/a.txt", "one\ntwo\n")
    artifact("in/train", "text", side="train")
    artifact("in/train/val", "text", side="val")
    artifact("in/val", "text", side="val")
    write("in/train.partial/train_0000.txt", "half\n")
    found = find_in_folder(tmp_path / "in", Reading(), (), ())
    assert [(file.name, file.kind) for file in found] == [("a.txt", "text"), ("train/shard.txt", "lines")]
    assert told(tmp_path / "in").endswith("left out: 2 folders of held-out text, 1 unfinished")
    # a folder that is named is read, held out or not
    assert [(f.name, f.kind) for f in find_in_folder(tmp_path / "in/val", Reading(), (), ())] == [
        ("shard.txt", "lines")
    ]
    assert names(tmp_path / "in" / "train") == ["shard.txt"]


def test_shards_of_transformer_candle_in_a_folder_are_read_by_lines(write, tmp_path):
    write("in/old/manifest.json", json.dumps({"shards": [], "total_lines": 2}))
    write("in/old/train_0000.txt", "one\ntwo\n")
    found = find_in_folder(tmp_path / "in", Reading(), (), ())
    assert [(file.name, file.kind) for file in found] == [("old/train_0000.txt", "lines")]


@pytest.mark.parametrize(
    ("manifest", "is_text"),
    [
        ('{"shards": [], "total_lines": 0}', True), ('{"shards": [], "total_lines": 0, "x": 1}', True),
        ('{"shards": []}', False), ("[]", False), ("{", False), ("[" * 100_000, False),
    ],
)  # fmt: skip
def test_a_plain_list_of_shards_is_text_and_other_manifests_are_not(tmp_path, manifest, is_text):
    (tmp_path / MANIFEST).write_text(manifest)
    assert is_text_artifact(tmp_path) is is_text


def test_rows_without_the_column_of_text_are_left_out_with_a_warning(write, tmp_path, told, caplog):
    write("package.json", '{"name": "x"}')
    write("tsconfig.json", "[ // no JSON\n]")
    write("cut.json", '[{"text": "x"}, {"te')
    write("damaged.arrow", "x")
    write("empty.parquet", "")
    write("rows.jsonl", ["x"])
    write("table.csv", "a,b\n1,2\n")
    write("t.csv.gz", "id,text\n1,x\n")
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "other.parquet")
    found = find_in_folder(tmp_path, Reading(), (), ())
    kinds = {file.name: file.kind for file in found}
    is_read = {"rows.jsonl": "jsonl", "t.csv.gz": "csv", "package.json": "text", "tsconfig.json": "text"}
    assert kinds == is_read
    line = told(tmp_path)
    assert "left out: 2 rows without 'text', 1 JSON arrays that are cut, 1 damaged, or not arrow, 1 empty" in line
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        f"{tmp_path}: 1 files are left out: JSON arrays that are cut, the first: {tmp_path}/cut.json "
        "(fix: get it again)",
        f"{tmp_path}: 1 files are left out: damaged, or not arrow, the first: {tmp_path}/damaged.arrow "
        "(fix: it is damaged: get it again)",
        f"{tmp_path}: 2 files are left out: rows without 'text', the first: {tmp_path}/other.parquet "
        "(fix: set data.text_field to one of its columns: body; or leave it out)",
    ]


def test_folder_of_rows_without_the_column_of_text_is_refused_with_the_fix(write, tmp_path):
    write("a.jsonl", '{"body": "x"}\n')
    with pytest.raises(
        DataError, match=r"left out: 1 rows without 'text'\) \(fix: .*a\.jsonl: set data\.text_field .* body"
    ):
        names(tmp_path)


def test_tokens_in_a_folder_are_files_named_bin(write, tmp_path, told):
    write("a.bin", b"\1\0")
    write("a.idx", b"\1\0")
    assert names(tmp_path, Reading("tokens")) == ["a.bin"]


def test_folder_without_text_is_refused_with_what_was_left_out(write, tmp_path):
    write("empty.txt", "")
    (tmp_path / "zip").write_bytes(gzip.compress(b"x"))
    with pytest.raises(DataError, match=r"no text \(0 files, .*left out: 1 empty, 1 compressed by gzip\)"):
        names(tmp_path)


def test_many_extensions_are_told_by_the_most_frequent_ones(write, tmp_path, told):
    for number in range(12):
        write(f"a.x{number:02}", "x")
    write("b.x11", "x")
    line = told(tmp_path)
    assert line.startswith("13 files, 0.0 MB: .x11 2, .x00 1")
    assert line.endswith(".x06 1, ...")


def test_unreadable_files_are_left_out_and_told(write, tmp_path, told, monkeypatch):
    write("a.txt", "x")
    write("b.txt", "x")
    monkeypatch.setattr("candlewick.data.text.folders.os.access", lambda path, mode: path.name != "b.txt")
    assert told(tmp_path).endswith("left out: 1 not readable")
