import os
import shutil

import pytest
from tests.prepared import newest_checkpoint

from candlewick.artifacts.manifest import Manifest, publish, staging, write_durable
from candlewick.checkpoint import layout
from candlewick.checkpoint.layout import (
    find_checkpoints,
    list_checkpoints,
    prune,
    remove_leftovers,
    step_folder,
    verify_checkpoint,
)
from candlewick.errors import CheckpointError


def _checkpoint(directory, step, version=1):
    target = step_folder(directory, step)
    with staging(target) as aside:
        entry = write_durable(aside / "state.json", b'{"step": %d}' % step)
        publish(aside, target, Manifest("checkpoint", version, {}, {}, (entry,), {}, {}))
    return target


def step_of(folder):
    return int(folder.name.removeprefix("step_"))


def test_list_checkpoints_sorts_by_step(tmp_path):
    made = [_checkpoint(tmp_path, step) for step in (9, 1000, 20)]
    assert [step_of(folder) for folder in list_checkpoints(tmp_path)] == [9, 20, 1000]
    assert newest_checkpoint(tmp_path) == made[1]
    assert list_checkpoints(tmp_path / "none") == []


def test_list_checkpoints_skips_unfinished_folders(tmp_path):
    _checkpoint(tmp_path, 1)
    (tmp_path / "step_000000002").mkdir()
    assert step_of(newest_checkpoint(tmp_path)) == 1


def test_newest_checkpoint_skips_a_damaged_folder_and_logs_its_name(tmp_path, caplog):
    _checkpoint(tmp_path, 1)
    (_checkpoint(tmp_path, 2) / "state.json").write_bytes(b"{")
    assert step_of(newest_checkpoint(tmp_path)) == 1
    assert "step_000000002/state.json has 1 bytes, its manifest says" in caplog.text


def test_newest_checkpoint_without_a_valid_folder_raises_with_the_reason(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint in .*without --resume"):
        newest_checkpoint(tmp_path)
    (_checkpoint(tmp_path, 2) / "state.json").unlink()
    with pytest.raises(CheckpointError, match="step_000000002 rejected"):
        newest_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="state.json is missing"):
        verify_checkpoint(step_folder(tmp_path, 2))
    with pytest.raises(CheckpointError, match="format version 7"):
        verify_checkpoint(_checkpoint(tmp_path, 3, version=7))


def test_candidates_accepts_a_run_a_checkpoint_directory_or_a_checkpoint(tmp_path):
    folder = _checkpoint(tmp_path / "run" / "checkpoints", 5)
    for name in (folder, folder.parent, folder.parent.parent):
        assert find_checkpoints(name) == [folder]
    with pytest.raises(CheckpointError, match="does not exist"):
        find_checkpoints(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no finished checkpoint"):
        find_checkpoints(tmp_path)


def test_prune_keeps_the_newest_and_remove_leftovers_removes_leftovers_of_a_crash(tmp_path):
    for step in range(5):
        _checkpoint(tmp_path, step)
    prune(tmp_path, step_folder(tmp_path, 4), 2)
    assert [step_of(folder) for folder in list_checkpoints(tmp_path)] == [3, 4]
    (tmp_path / ".tmp-step_000000009-ab").mkdir()
    (tmp_path / ".del-step_000000001").mkdir()
    (tmp_path / "mine").mkdir()
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "none")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "step_000000003", "step_000000004"]


def test_a_folder_of_something_else_is_named_in_the_error(tmp_path):
    """With it the command line can say what the folder is, and what to do with it."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text('{"version": 1}')
    for find, folder, said in (
        (find_checkpoints, "empty", "holds no finished checkpoint"),
        (newest_checkpoint, "empty", "no checkpoint in"),
        (find_checkpoints, "other", "checkpoint rejected: .* is not an artifact manifest"),
    ):
        with pytest.raises(CheckpointError, match=said) as raised:
            find(tmp_path / folder)
        assert raised.value.path == tmp_path / folder


def test_prune_syncs_the_rename_of_a_checkpoint_before_deleting_its_files(tmp_path, monkeypatch):
    for step in range(2):
        _checkpoint(tmp_path, step)
    events = []
    monkeypatch.setattr(layout, "fsync_directory", lambda folder: events.append(("fsync", folder)))
    monkeypatch.setattr(shutil, "rmtree", lambda folder, **_: events.append(("delete", folder)))
    prune(tmp_path, step_folder(tmp_path, 1), 1)
    assert events == [("fsync", tmp_path), ("delete", tmp_path / ".del-step_000000000")]


def test_remove_leftovers_puts_back_a_checkpoint_whose_successor_did_not_come(tmp_path):
    for step in (1, 2):
        folder = _checkpoint(tmp_path, step)
        shutil.copytree(folder, tmp_path / f".old-{folder.name}-ab")
    shutil.rmtree(tmp_path / "step_000000001")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000000001", "step_000000002"]
    verify_checkpoint(tmp_path / "step_000000001")


def test_remove_leftovers_removes_links_and_settings_that_were_not_renamed_yet_and_nothing_else(tmp_path):
    for name in (".tmp-best", ".tmp-step_000000004"):
        (tmp_path / name).symlink_to("gone")
    for name in (".config.yaml.12.tmp", ".best.json.7.tmp", ".mine.12.tmp", ".config.yaml.tmp", ".tmp-other"):
        (tmp_path / name).write_text("x")
    (_checkpoint(tmp_path / "run", 3) / ".README.md.7.tmp").write_text("a card that was being written")
    remove_leftovers(tmp_path / "run")
    assert not list((tmp_path / "run").glob("step_*/.*"))
    shutil.rmtree(tmp_path / "run")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".mine.12.tmp", ".config.yaml.tmp", ".tmp-other"}


def test_remove_leftovers_and_prune_go_on_past_a_folder_that_cannot_be_removed(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("no")

    for step in range(2):
        _checkpoint(tmp_path, step)
    (tmp_path / ".tmp-step_000000009-ab").mkdir()
    monkeypatch.setattr(os, "rmdir", refuse)
    prune(tmp_path, step_folder(tmp_path, 1), 1)
    remove_leftovers(tmp_path)
    assert [step_of(folder) for folder in list_checkpoints(tmp_path)] == [1]


def test_prune_passes_over_a_manifest_that_cannot_be_read(tmp_path):
    for step in (1, 2, 3, 4):
        _checkpoint(tmp_path, step)
    (step_folder(tmp_path, 1) / "manifest.json").write_bytes(b"{")
    prune(tmp_path, step_folder(tmp_path, 4), 2)
    assert [step_of(folder) for folder in list_checkpoints(tmp_path)] == [1, 3, 4]
