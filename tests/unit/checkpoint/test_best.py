"""The links to a run's best checkpoints: relative, replaced whole, and never in the way of the checkpoints."""

import errno
import json
import os
from pathlib import Path

import pytest

from candlewick.checkpoint.best import link_best
from candlewick.checkpoint.layout import find_checkpoints, list_checkpoints
from candlewick.checkpoint.open import Checkpoint
from candlewick.checkpoint.save import save
from candlewick.errors import CheckpointError


@pytest.fixture
def checkpoints(make_snapshot, tmp_path) -> Path:
    """A run's checkpoints of steps 1, 2 and 3."""
    for step in (1, 2, 3):
        save(tmp_path / "run" / "checkpoints", make_snapshot(step))
    return tmp_path / "run" / "checkpoints"


def links(folder: Path) -> dict[str, str]:
    """Return the links in a folder and what each says."""
    return {path.name: str(path.readlink()) for path in folder.iterdir() if path.is_symlink()}


def test_link_of_a_run_names_the_best_checkpoint_and_moves_with_the_run(checkpoints, tmp_path):
    place = checkpoints.parent / "best"
    for steps, name in (((1,), "step_000000001"), ((1, 3), "step_000000003"), ((1, 3), "step_000000003")):
        link_best(checkpoints, steps, place, is_folder=False)
        assert links(checkpoints.parent) == {"best": f"checkpoints/{name}"}
    moved = checkpoints.parent.rename(tmp_path / "moved")
    assert Checkpoint.open(moved / "best", need={"weights"}).weights()
    link_best(moved / "checkpoints", (), moved / "best", is_folder=False)
    assert links(moved) == {}


def test_folder_of_links_has_one_to_each_best_checkpoint_that_is_kept(checkpoints, tmp_path):
    place = tmp_path / "good"
    link_best(checkpoints, (1, 2), place, is_folder=True)
    assert links(place) == {
        "step_000000001": "../run/checkpoints/step_000000001",
        "step_000000002": "../run/checkpoints/step_000000002",
        "best": "../run/checkpoints/step_000000002",
    }
    link_best(checkpoints, (2, 3, 9), place, is_folder=True)  # 9 is gone
    assert sorted(links(place)) == ["best", "step_000000002", "step_000000003"]
    assert find_checkpoints(place) == [place / "step_000000003", place / "step_000000002"]
    assert find_checkpoints(place / "best") == [place / "best"]


def test_links_of_another_run_are_replaced_with_a_warning(checkpoints, make_snapshot, tmp_path, caplog):
    place, others = tmp_path / "good", tmp_path / "other" / "checkpoints"
    save(others, make_snapshot(2))
    link_best(others, (2,), place, is_folder=True)
    link_best(others, (2,), place, is_folder=True)
    assert not caplog.records
    link_best(checkpoints, (1,), place, is_folder=True)
    assert sorted(record.getMessage() for record in caplog.records) == [
        f"{place / name} was a link to {others / 'step_000000002'}, which stays: links there are now this run's"
        for name in ("best", "step_000000002")
    ]
    assert list_checkpoints(others) == [others / "step_000000002"]


def test_link_that_cannot_be_replaced_leaves_nothing_beside_it(checkpoints, tmp_path, monkeypatch):
    link_best(checkpoints, (1,), tmp_path / "good", is_folder=True)
    before = links(tmp_path / "good")

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="Input/output error"):
        link_best(checkpoints, (1, 2), tmp_path / "good", is_folder=True)
    assert links(tmp_path / "good") == before


def test_folder_of_the_checkpoints_gets_the_link_to_the_best_alone(checkpoints):
    link_best(checkpoints, (1, 2), checkpoints, is_folder=True)
    assert links(checkpoints) == {"best": "step_000000002"}
    assert len(list_checkpoints(checkpoints)) == 3


@pytest.mark.parametrize("is_folder", [False, True])
def test_copies_of_an_older_version_are_kept_under_another_name(make_snapshot, checkpoints, is_folder, caplog):
    place = checkpoints.parent / "best"
    save(place, make_snapshot(2))
    link_best(checkpoints, (3,), place, is_folder=is_folder)
    (aside,) = checkpoints.parent.glob("best.v1-*")
    assert list_checkpoints(aside) == [aside / "step_000000002"]
    assert Checkpoint.open(place, need={"weights"}).folder.resolve() == checkpoints / "step_000000003"
    assert str(aside) in caplog.text


@pytest.mark.parametrize("is_folder", [False, True])
def test_disk_without_links_gets_a_file_that_names_the_best(checkpoints, monkeypatch, caplog, is_folder):
    place = checkpoints.parent / "best"

    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "symlink", refuse)
        for steps in ((1,), (2,), (2, 3)):
            link_best(checkpoints, steps, place, is_folder=is_folder)
    assert len(caplog.records) == 1
    assert Checkpoint.open(place, need={"weights"}).folder.resolve() == checkpoints / "step_000000003"
    link_best(checkpoints, (1,), place, is_folder=is_folder)  # on a disk with links again
    assert not list(checkpoints.parent.rglob("best.json"))
    assert Checkpoint.open(place, need={"weights"}).folder.resolve() == checkpoints / "step_000000001"


@pytest.mark.parametrize("content", ["{", "[]", '{"best": 3}', "{}", "[" * 100_000, '{"best": "' + "x" * 10_000])
def test_damaged_best_json_is_refused_by_name(tmp_path, content):
    (tmp_path / "best.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"best\.json names no checkpoint"):
        find_checkpoints(tmp_path)


def test_best_json_that_names_a_missing_folder_says_which(tmp_path):
    (tmp_path / "best.json").write_text(json.dumps({"best": "../gone"}))
    with pytest.raises(CheckpointError, match="gone does not exist"):
        find_checkpoints(tmp_path)


def test_other_errors_of_the_disk_are_raised(checkpoints, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "symlink", refuse)
    with pytest.raises(OSError, match="No space"):
        link_best(checkpoints, (1,), checkpoints.parent / "best", is_folder=False)
    assert links(checkpoints.parent) == {}
