import contextlib
import hashlib
import json
import os
import random
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.prepared import edit_manifest

from candlewick.artifacts import manifest as artifacts
from candlewick.artifacts.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    canonical_json,
    file_sha256,
    json_sha256,
    publish,
    read_bounded,
    read_manifest,
    replace_durable,
    require_replaceable,
    staging,
    verify,
    write_durable,
)
from candlewick.errors import ArtifactError

SHA = "0" * 64
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 60), 1 << 60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(st.text("abcdef", min_size=1, max_size=4), json_values, max_size=3)


def make(folder: Path, **changes) -> Manifest:
    """An artifact with two files, one of them in a subfolder."""
    with staging(folder) as aside:
        (aside / "sub").mkdir()
        files = (
            write_durable(aside / "a.bin", b"abc"),
            write_durable(aside / "sub" / "b.bin", [b"de", b"", b"f"], "sub/b.bin"),
        )
        manifest = Manifest("demo", 1, {"corpus": "x"}, {"k": 1}, files, {"count": 2}, {"host": "h"})
        return publish(aside, folder, replace(manifest, **changes))


def test_canonical_json_of_equal_values_has_equal_bytes():
    assert canonical_json({"b": 1, "a": "é"}) == canonical_json({"a": "é", "b": 1}) == '{"a":"é","b":1}'.encode()


def test_json_sha256_refuses_numbers_that_are_not_finite():
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_sha256({"a": float("nan")})


def test_write_durable_returns_name_size_and_hash(tmp_path):
    entry = write_durable(tmp_path / "f", [b"ab", b"c"], "sub/f")
    assert entry == FileEntry("sub/f", 3, hashlib.sha256(b"abc").hexdigest())
    assert file_sha256(tmp_path / "f") == entry.sha256
    assert write_durable(tmp_path / "g", b"abc").name == "g"


def test_replace_durable_leaves_no_temporary_file(tmp_path):
    for content in (b"one", b"two"):
        entry = replace_durable(tmp_path / "state.json", content)
        assert (tmp_path / "state.json").read_bytes() == content
        assert entry.name == "state.json"
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_an_artifact_reads_back_as_it_was_written(tmp_path):
    made = make(tmp_path / "x")
    found = read_manifest(tmp_path / "x", "demo", 1)
    assert found == made
    assert found.id == made.id
    verify(tmp_path / "x", found)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@settings(deadline=None)
@given(inputs=json_objects, config=json_objects, details=json_objects)
def test_manifest_of_any_content_reads_back_with_the_same_id(tmp_path_factory, inputs, config, details):
    folder = tmp_path_factory.mktemp("manifest") / "x"
    made = make(folder, inputs=inputs, config=config, details=details)
    assert read_manifest(folder).id == made.id


def test_manifest_id_covers_everything_but_the_provenance(tmp_path):
    made = make(tmp_path / "x")
    assert replace(made, provenance={"host": "other"}).id == made.id
    others = [
        replace(made, kind="other"),
        replace(made, version=2),
        replace(made, inputs={}),
        replace(made, config={}),
        replace(made, details={}),
        replace(made, files=made.files[:1]),
    ]
    assert len({made.id, *(other.id for other in others)}) == 1 + len(others)


def test_publish_replaces_an_artifact(tmp_path):
    make(tmp_path / "x", details={"count": 1})
    made = make(tmp_path / "x", details={"count": 2})
    assert read_manifest(tmp_path / "x") == made
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_publish_that_fails_puts_the_artifact_back_that_it_was_to_replace(tmp_path, monkeypatch):
    made = make(tmp_path / "x", details={"count": 1})
    rename, left = Path.rename, [2]  # the second one publishes

    def fail_once(self, target):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(OSError, match="Input/output error"):
        make(tmp_path / "x", details={"count": 2})
    assert read_manifest(tmp_path / "x") == made
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_publish_fills_an_empty_folder(tmp_path):
    (tmp_path / "x").mkdir()
    make(tmp_path / "x")
    assert read_manifest(tmp_path / "x").kind == "demo"


@pytest.mark.parametrize("is_file", [True, False])
def test_file_or_folder_that_is_no_artifact_is_not_replaced(tmp_path, is_file):
    target = tmp_path / "x"
    if is_file:
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "mine.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="is not replaced by the new thing.*another folder"):
        require_replaceable(target, "thing")
    with pytest.raises(ArtifactError):
        make(target)
    assert (target if is_file else target / "mine.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_missing_or_empty_folder_is_replaceable(tmp_path):
    require_replaceable(tmp_path / "nothing here", "thing")
    (tmp_path / "empty").mkdir()
    require_replaceable(tmp_path / "empty", "thing")


def test_artifact_of_another_kind_is_not_replaced(tmp_path):
    make(tmp_path / "x")
    require_replaceable(tmp_path / "x", read_manifest(tmp_path / "x").kind)
    with pytest.raises(ArtifactError, match="so it is not replaced by the new tokenizer"):
        require_replaceable(tmp_path / "x", "tokenizer")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "manifest.json").write_text('{"name": "my web app"}')
    with pytest.raises(ArtifactError, match="folder of something else"):
        require_replaceable(tmp_path / "web", "tokenizer")


def test_staging_removes_its_files_after_an_error(tmp_path):
    with pytest.raises(KeyError), staging(tmp_path / "deep" / "x") as aside:
        (aside / "half").write_text("half")
        raise KeyError
    assert list((tmp_path / "deep").iterdir()) == []


def test_staging_syncs_files_and_folders_before_the_rename(tmp_path, monkeypatch):
    """Files, the manifest, the folders, the rename, the parent: in this order."""
    log: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def logged_fsync(descriptor):
        log.append(Path(f"/proc/self/fd/{descriptor}").readlink().name.partition("-")[0])
        fsync(descriptor)

    def logged_rename(self, target):
        log.append(f"rename to {target.name}")
        return rename(self, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    monkeypatch.setattr(artifacts.os, "fsync", logged_fsync)
    monkeypatch.setattr(Path, "rename", logged_rename)
    make(tmp_path / "x")
    assert log[:3] == ["a.bin", "b.bin", MANIFEST]
    assert sorted(log[3:5]) == [".tmp", "sub"]
    assert log[5:] == ["rename to x", tmp_path.name.partition("-")[0]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.pop("details"), "details: Field required"),
        (lambda f: f.update(extra=1), "extra: Unexpected keyword argument"),
        (lambda f: f.update(kind=3), "kind: Input should be a valid string"),
        (lambda f: f.update(version="1"), "version: Input should be a valid integer"),
        (lambda f: f.update(version=True), "version: Input should be a valid integer"),
        (lambda f: f.update(files={}), "files: Input should be a valid (array|tuple)"),
        (lambda f: f.update(inputs=[]), "inputs: Input should be"),
        (lambda f: f["files"].append("a"), r"files\.2: Input should be"),
        (lambda f: f["files"][0].update(size=3), r"files\.0\.size: Unexpected keyword argument"),
        (lambda f: f["files"][0].update(bytes=-1), r"files\.0\.bytes: Input should be greater"),
        (lambda f: f["files"][0].update(sha256="0" * 63), r"files\.0\.sha256: String should match"),
        *[
            (lambda f, name=name: f["files"][0].update(name=name), r"files\.0\.name: String should match")
            for name in (
                "../a",
                "/etc/passwd",
                "a/../b",
                "C:\\a",
                "",
                ".hidden",
                "a/b/c",
                "a\0b",
                "a\n",
                "é",
                "a/",
            )
        ],
    ],
)
def test_manifest_with_wrong_keys_or_values_is_refused(tmp_path, change, said):
    make(tmp_path / "x")
    edit_manifest(tmp_path / "x", change)
    with pytest.raises(ArtifactError, match=said) as caught:
        read_manifest(tmp_path / "x")
    assert str(tmp_path / "x" / MANIFEST) in str(caught.value)


def test_manifest_with_a_flipped_bit_is_refused_or_has_the_same_meaning(tmp_path):
    manifest, path = make(tmp_path / "x"), tmp_path / "x" / MANIFEST
    good, choose = path.read_bytes(), random.Random(7)
    for _ in range(400):
        content = bytearray(good)
        content[choose.randrange(len(good))] ^= 1 << choose.randrange(8)
        path.write_bytes(content)
        with contextlib.suppress(ArtifactError):
            assert read_manifest(tmp_path / "x") == manifest


def test_manifest_that_was_edited_is_refused_and_one_without_its_hash_is_read(tmp_path):
    make(tmp_path / "x")
    path = tmp_path / "x" / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"provenance": {', b'"provenance": {"user": "me",'))
    with pytest.raises(ArtifactError, match="manifest.json was changed: its sha256 is another one"):
        read_manifest(tmp_path / "x")
    manifest = make(tmp_path / "y")
    edit_manifest(tmp_path / "y", lambda _: None)
    assert read_manifest(tmp_path / "y") == manifest


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"[]", b"null"])
def test_manifest_of_other_content_is_refused(tmp_path, content):
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"(not valid JSON|not an artifact manifest).*make it again"):
        read_manifest(tmp_path)


def test_manifest_above_the_size_limit_is_neither_published_nor_read(tmp_path, monkeypatch):
    old = make(tmp_path / "x")
    files = tuple(FileEntry(f"{i}.bin", 1 << 30, SHA) for i in range(3000))
    new = make(tmp_path / "y", files=files)
    size = (tmp_path / "y" / MANIFEST).stat().st_size
    monkeypatch.setattr(artifacts, "MAX_MANIFEST_BYTES", size)
    assert read_manifest(tmp_path / "y") == new
    monkeypatch.setattr(artifacts, "MAX_MANIFEST_BYTES", size - 1)
    with pytest.raises(ArtifactError, match=f"larger than {size - 1} bytes"):
        read_manifest(tmp_path / "y")
    with pytest.raises(ArtifactError, match=rf"would have {size:,} bytes for 3,000 files.*fewer, larger files"):
        make(tmp_path / "x", files=files)
    assert read_manifest(tmp_path / "x") == old


@pytest.mark.parametrize("count", [0, 1, 1000, 1001, 2500])
def test_id_of_long_lists_is_the_hash_of_their_canonical_json(tmp_path, count):
    files = tuple(FileEntry(f"f{i}", i, SHA) for i in range(count))
    details = {"é": [{"b": i, "a": None} for i in range(count)], "z": {}, "a": {"y": [1.5, "\U0001f600"], "x": []}}
    manifest = make(tmp_path / "x", files=files, details=details)
    written = json.loads((tmp_path / "x" / MANIFEST).read_bytes())
    assert written.pop("sha256") == json_sha256(written)
    assert written == json.loads(json.dumps(asdict(manifest)))
    del written["provenance"]
    assert manifest.id == read_manifest(tmp_path / "x").id == json_sha256(written)


@pytest.mark.parametrize(
    ("make_path", "said"),
    [
        (lambda path: os.mkfifo(path), "it is no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is no regular file"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_bytes(b"12345"), "it is larger than 4 bytes"),
    ],
)
def test_bounded_read_refuses_pipes_devices_and_large_files(tmp_path, make_path, said):
    make_path(tmp_path / "x")
    with pytest.raises(OSError, match=said) as caught:
        read_bounded(tmp_path / "x", 4)
    assert caught.value.filename == str(tmp_path / "x")


def test_bounded_read_returns_a_file_of_the_largest_size(tmp_path):
    (tmp_path / "x").write_bytes(b"1234")
    assert read_bounded(tmp_path / "x", 4) == b"1234"


@pytest.mark.parametrize("kind", [None, "tokenizer"])
def test_folder_without_manifest_is_refused_as_not_finished(tmp_path, kind):
    with pytest.raises(ArtifactError, match=f"it is not a finished {kind or 'artifact'}"):
        read_manifest(tmp_path, kind)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="has no manifest.json"):
        read_manifest(tmp_path / "file", kind)


def test_artifact_of_another_kind_or_version_is_refused_with_both_values(tmp_path):
    make(tmp_path / "x")
    with pytest.raises(ArtifactError, match="is a 'demo' artifact, expected 'tokens'"):
        read_manifest(tmp_path / "x", "tokens")
    with pytest.raises(ArtifactError, match="format version 1, this program reads 2 and 3"):
        read_manifest(tmp_path / "x", None, 2, 3)


def test_verify_names_a_missing_truncated_or_changed_file(tmp_path):
    manifest = make(tmp_path / "x")
    path = tmp_path / "x" / "a.bin"
    path.write_bytes(b"abd")
    verify(tmp_path / "x", manifest, hashes=False)
    with pytest.raises(ArtifactError, match=r"a\.bin has sha256 \w{12}, its manifest says \w{12}"):
        verify(tmp_path / "x", manifest)
    path.write_bytes(b"ab")
    with pytest.raises(ArtifactError, match=r"a\.bin has 2 bytes, its manifest says 3"):
        verify(tmp_path / "x", manifest, hashes=False)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"a\.bin is missing"):
        verify(tmp_path / "x", manifest)


def test_verify_follows_a_link_to_a_file_with_the_same_content_alone(tmp_path):
    """As in the Hub's cache, and of shards that lie on another disk."""
    manifest = make(tmp_path / "x")
    path, other = tmp_path / "x" / "a.bin", tmp_path / "other"
    content = path.read_bytes()
    path.unlink()
    path.symlink_to(other)
    with pytest.raises(ArtifactError, match=r"a\.bin is missing"):
        verify(tmp_path / "x", manifest)
    other.write_bytes(content)
    verify(tmp_path / "x", manifest)
    other.write_bytes(content[::-1])
    with pytest.raises(ArtifactError, match=r"a\.bin has sha256"):
        verify(tmp_path / "x", manifest)


def test_replace_durable_writes_through_no_link(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "a").symlink_to("mine")
    (tmp_path / f".a.{os.getpid()}.tmp").symlink_to("mine")
    artifacts.replace_durable(tmp_path / "a", b"new")
    assert [(tmp_path / name).read_text() for name in ("mine", "a")] == ["mine", "new"]


@pytest.mark.parametrize("limit", [0, 1 << 40])
def test_verify_finds_a_changed_file_with_and_without_threads(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(artifacts, "_HASHED_IN_THREADS_BYTES", limit)
    manifest = make(tmp_path / "x")
    verify(tmp_path / "x", manifest)
    path = tmp_path / "x" / "a.bin"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(ArtifactError, match=r"a\.bin has sha256"):
        verify(tmp_path / "x", manifest)


@pytest.mark.parametrize("number", [5, 28, 116])
def test_error_while_a_file_is_read_names_the_file(tmp_path, monkeypatch, number):
    (tmp_path / "a").write_bytes(b"a")

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(hashlib, "file_digest", fail)
    with pytest.raises(OSError, match="a'$"):
        artifacts.file_sha256(tmp_path / "a")
