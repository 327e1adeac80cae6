import fcntl
import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from candlewick.artifacts.build import (
    Recipe,
    build_json_once,
    exclusive_build,
    find_built,
    hold_folder,
    is_held,
    require_same,
)
from candlewick.artifacts.manifest import Manifest, publish, staging, write_durable
from candlewick.errors import ArtifactError, CheckpointError

RECIPE = Recipe("thing", {"tokens": "a" * 64}, {"seed": 1})


@pytest.fixture
def thing(tmp_path):
    folder = tmp_path / "thing"
    with staging(folder) as aside:
        files = (write_durable(aside / "x", b"1"),)
        manifest = publish(aside, folder, Manifest(RECIPE.kind, 1, RECIPE.inputs, RECIPE.config, files, {}, {}))
    return folder, manifest


def test_find_returns_a_build_of_the_same_recipe_only(thing):
    folder, manifest = thing
    assert find_built(folder, RECIPE) == manifest
    for other in (
        Recipe("other", RECIPE.inputs, RECIPE.config),
        Recipe("thing", {"tokens": "b" * 64}, RECIPE.config),
        Recipe("thing", RECIPE.inputs, {"seed": 2}),
        Recipe("thing", RECIPE.inputs, RECIPE.config, version=2),
    ):
        assert find_built(folder, other) is None
    assert find_built(folder.parent, RECIPE) is None


def test_find_rejects_a_damaged_build_and_logs_the_file(thing, caplog):
    folder, manifest = thing
    (folder / "x").write_bytes(b"2")
    assert find_built(folder, RECIPE, hashes=False) == manifest
    assert find_built(folder, RECIPE) is None
    assert "x has sha256" in caplog.text
    assert "it is made again" in caplog.text


def test_second_builder_waits_for_the_first_and_sees_its_files(tmp_path, monkeypatch):
    order: list[str] = []
    waits, lock = threading.Event(), fcntl.flock

    def flock(file, operation):
        if operation == fcntl.LOCK_EX:
            waits.set()
        return lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)

    def second() -> None:
        with exclusive_build(tmp_path / "out") as partial:
            order.append("second")
            assert partial.is_dir()

    with exclusive_build(tmp_path / "out") as partial:
        waiting = threading.Thread(target=second)
        waiting.start()
        assert waits.wait(20)
        partial.rename(tmp_path / "out")  # published: the lock went with the folder
        order.append("first")
    waiting.join(20)
    assert order == ["first", "second"]
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_interrupted_build_keeps_its_partial_files(tmp_path):
    with pytest.raises(KeyboardInterrupt), exclusive_build(tmp_path / "out") as partial:
        (partial / "shard").write_bytes(b"1")
        raise KeyboardInterrupt
    with exclusive_build(tmp_path / "out") as partial:
        assert (partial / "shard").read_bytes() == b"1"


def test_leftovers_of_a_killed_build_are_removed_and_other_folders_kept(thing):
    folder, _ = thing
    names = [".old-thing-0123abcd", ".tmp-thing-0123abcd", ".old-thing-2-0123abcd"]
    paths = [folder.parent / name for name in names]
    for path in paths:
        path.mkdir()
    assert find_built(folder, RECIPE) is not None
    assert [path.exists() for path in paths] == [False, True, True]  # somebody may be writing .tmp
    with exclusive_build(folder):
        pass
    assert [path.exists() for path in paths] == [False, False, True]


JSON_RECIPE = Recipe("thing", {"tokens": "a" * 64}, {"seed": 1})


def test_build_json_once_computes_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"é": 1}

    for was_there in (False, True):
        assert build_json_once(tmp_path / "thing" / "a.json", JSON_RECIPE, compute) == ({"é": 1}, was_there)
    assert len(calls) == 1


def test_build_json_once_recomputes_for_another_recipe_or_damaged_file(tmp_path):
    path = tmp_path / "thing" / "x"
    build_json_once(path, JSON_RECIPE, lambda: 1)
    for other in (
        Recipe("other", JSON_RECIPE.inputs, JSON_RECIPE.config),
        Recipe("thing", {"tokens": "b" * 64}, JSON_RECIPE.config),
        Recipe("thing", JSON_RECIPE.inputs, {"seed": 2}),
    ):
        assert find_built(tmp_path / "thing", other) is None
    assert find_built(tmp_path / "nowhere", JSON_RECIPE) is None
    path.write_bytes(b"2")
    assert find_built(tmp_path / "thing", JSON_RECIPE) is None
    assert build_json_once(path, JSON_RECIPE, lambda: 3) == (3, False)
    assert find_built(tmp_path / "thing", JSON_RECIPE) is not None


def test_lock_in_use_is_refused_with_the_process_id_of_its_holder(tmp_path):
    said = rf"in use by .*{os.getpid()}"
    run = tmp_path / "run"
    with hold_folder(run, "wait"), pytest.raises(CheckpointError, match=said), hold_folder(run, "wait"):
        pass
    with hold_folder(run, "wait"):
        (run / "kept").touch()
    assert sorted(path.name for path in run.iterdir()) == ["LOCK", "kept"]


def test_lock_leaves_no_folder_that_holds_nothing_else(tmp_path):
    with hold_folder(tmp_path / "new", "wait"):
        pass
    assert not (tmp_path / "new").exists()


def test_lock_that_its_holder_removes_is_made_again(tmp_path, monkeypatch):
    """A second process that opened the file before it was removed must not hold a file that nobody else sees."""
    path, flock, removed = tmp_path / "run" / "LOCK", fcntl.flock, []

    def remove_first(file, how):
        if not removed:
            removed.append(path.unlink())
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with hold_folder(path.parent, "wait"):
        assert json.loads(path.read_text())["pid"] == os.getpid()
        with pytest.raises(CheckpointError, match="in use"), hold_folder(path.parent, "wait"):
            pass


def test_lock_that_is_a_link_is_refused_and_its_target_is_kept(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "LOCK").symlink_to("mine")
    with pytest.raises(CheckpointError, match="LOCK is a link"), hold_folder(tmp_path, "wait"):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


HOLD = """
import pathlib, signal, sys
from candlewick.artifacts.build import hold_folder
with hold_folder(pathlib.Path(sys.argv[1]), "wait"):
    print("held", flush=True)
    signal.pause()
"""


def test_lock_of_a_killed_process_is_free(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(CheckpointError, match=str(process.pid)), hold_folder(tmp_path, "wait"):
        pass
    process.kill()
    process.communicate()
    with hold_folder(tmp_path, "wait"):
        pass


def test_an_artifact_that_was_made_otherwise_is_refused_with_what_differs(thing, tmp_path):
    folder, _ = thing
    require_same(folder, RECIPE)
    require_same(tmp_path / "nothing", RECIPE)
    require_same(folder, Recipe("other", {}, {}))  # never replaced: `require_replaceable` says so
    with pytest.raises(ArtifactError, match=r"made otherwise: seed 1, now 2.*add --replace"):
        require_same(folder, Recipe("thing", RECIPE.inputs, {"seed": 2}))
    with pytest.raises(ArtifactError, match="version 1, now 2"):
        require_same(folder, Recipe("thing", RECIPE.inputs, RECIPE.config, version=2))
    with pytest.raises(ArtifactError, match="tokens aaaaaaaaaaaaaaaaaaaa, now None"):
        require_same(folder, Recipe("thing", {}, RECIPE.config))


def test_lock_is_held_while_its_block_runs(tmp_path):
    run = tmp_path / "run"
    assert not is_held(run)
    with hold_folder(run, "wait"):
        (run / "kept").touch()
        assert is_held(run)
        with pytest.raises(CheckpointError, match="in use"), hold_folder(run, "wait"):
            pass
    assert (run / "LOCK").is_file()
    assert not is_held(run)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"pid": "x", "host": 1}', "x" * 300, '{"pid": 1e99, "host": HOST}']
)
def test_lock_of_another_shape_is_not_held(tmp_path, text):
    (tmp_path / "LOCK").write_text(text.replace("HOST", json.dumps(socket.gethostname())))
    assert not is_held(tmp_path)


def test_lock_of_a_process_that_is_gone_is_not_tried(tmp_path, monkeypatch):
    """Trying it could keep out a process that takes it at this moment."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (tmp_path / "LOCK").write_text(json.dumps({"pid": process.pid, "host": socket.gethostname()}))
    monkeypatch.setattr(fcntl, "flock", lambda *_: pytest.fail("it was tried"))
    assert not is_held(tmp_path)


def test_lock_of_a_living_process_or_another_machine_is_tried(tmp_path):
    for owner in ({"pid": os.getpid(), "host": socket.gethostname()}, {"pid": 1, "host": "elsewhere"}):
        (tmp_path / "LOCK").write_text(json.dumps(owner))
        assert not is_held(tmp_path)
        with (tmp_path / "LOCK").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert is_held(tmp_path)
