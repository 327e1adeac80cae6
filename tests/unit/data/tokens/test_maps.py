import fcntl
import gc
import os
import resource
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from candlewick.artifacts.manifest import MANIFEST
from candlewick.data.tokens import maps
from candlewick.data.tokens.maps import FolderHold, MappedFiles, max_maps, require_readable
from candlewick.errors import DataError

COUNT = 12


@pytest.fixture
def folder(tmp_path) -> Path:
    """Files 0.bin, 1.bin, ... of three numbers, the first of which is that of the file."""
    made = tmp_path / "ds"
    made.mkdir()
    (made / MANIFEST).touch()
    for i in range(COUNT):
        np.array([i, 7, 8], np.uint16).tofile(made / f"{i}.bin")
    return made


def open_files(folder: Path) -> MappedFiles:
    return MappedFiles(FolderHold(folder), "{}.bin", [str(i) for i in range(COUNT)], [3] * COUNT, np.uint16)


def open_descriptors() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208


def is_locked(folder: Path) -> bool:
    with (folder / MANIFEST).open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_files_are_read_in_any_order_and_again(folder):
    files = open_files(folder)
    assert len(files) == COUNT
    assert [files[i].tolist() for i in (3, 0, 3)] == [[3, 7, 8], [0, 7, 8], [3, 7, 8]]
    assert [array[0] for array in files] == list(range(COUNT))
    assert files.dtype == files[0].dtype == np.uint16


def test_few_files_are_open_at_a_time_over_all_objects(folder, monkeypatch):
    monkeypatch.setattr(maps, "max_maps", lambda: 5)
    first, second = open_files(folder), open_files(folder)
    before = open_descriptors()
    for _ in range(3):
        assert [array[0] for array in first] == [array[0] for array in second] == list(range(COUNT))
        assert open_descriptors() <= before + 5
    held = first[0]
    assert [array[0] for array in second] == list(range(COUNT))
    assert held.tolist() == [0, 7, 8]  # who reads it keeps it


def test_the_number_of_maps_is_a_quarter_of_the_files_that_may_be_open(monkeypatch):
    for limit, found in ((256, 64), (1024, 256), (1 << 20, 4096), (resource.RLIM_INFINITY, 4096)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert max_maps() == found


def test_threads_read_the_same_files(folder, monkeypatch):
    monkeypatch.setattr(maps, "max_maps", lambda: 2)
    files, start = open_files(folder), threading.Barrier(8)

    def read(seed: int) -> bool:
        start.wait()
        order = np.random.default_rng(seed).integers(0, COUNT, 2000).tolist()
        return all(files[i].tolist() == [i, 7, 8] for i in order)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(8)))


def test_file_of_another_size_or_that_is_gone_is_named(folder):
    files = open_files(folder)
    (folder / "1.bin").write_bytes(b"12345")
    (folder / "2.bin").unlink()
    with pytest.raises(DataError, match=r"ds/1\.bin has 5 bytes now, it had 6: it changed .*--resume"):
        files[1]
    with pytest.raises(DataError, match=r"ds/2\.bin is gone .*--resume"):
        files[2]


def test_file_that_cannot_be_opened_is_named(folder, monkeypatch):
    files = open_files(folder)

    def refuse(*_, **__):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match="Too many open files") as caught:
        files[0]
    assert caught.value.filename == str(folder / "0.bin")


def test_another_folder_of_the_same_name_is_not_read(folder):
    files = open_files(folder)
    folder.rename(folder.with_name("moved"))
    shutil.copytree(folder.with_name("moved"), folder)
    np.array([99, 99, 99], np.uint16).tofile(folder / "0.bin")
    assert files[0].tolist() == [0, 7, 8]
    shutil.rmtree(folder.with_name("moved"))
    with pytest.raises(DataError, match=r"1\.bin is gone"):
        files[1]


def test_empty_file_is_an_empty_array(folder):
    (folder / "e.bin").touch()
    files = MappedFiles(FolderHold(folder), "{}.bin", ["e"], [0], "<u8")
    assert (files[0].tolist(), files[0].dtype) == ([], np.uint64)


def test_folder_is_locked_while_its_files_are_read(folder):
    assert not is_locked(folder)
    gc.collect()  # what other tests left
    before = open_descriptors()
    files, other = open_files(folder), open_files(folder)
    assert files[0][0] == 0
    assert is_locked(folder)
    del other
    assert is_locked(folder)
    del files
    gc.collect()
    assert not is_locked(folder)
    assert open_descriptors() == before


def test_hold_of_a_folder_that_is_removed_meanwhile_is_taken_again(folder, monkeypatch):
    flock, renamed = fcntl.flock, []

    def remove_first(file, how):
        if not renamed:
            renamed.append(shutil.copytree(folder, folder.with_name("copy")))
            shutil.rmtree(folder)
            renamed[0].rename(folder)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    hold = FolderHold(folder)
    assert os.path.samestat(os.fstat(hold.descriptor), folder.stat())
    with pytest.raises(FileNotFoundError):
        FolderHold(folder.with_name("none"))


def test_file_system_without_locks_is_read_and_that_is_told(folder, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    caplog.set_level("INFO")
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert open_files(folder)[1][0] == 1
    assert "cannot be locked (Operation not supported): do not remove it while it is read" in caplog.text


def test_part_of_a_file_that_was_cut_is_an_error_that_names_it(tmp_path):
    (tmp_path / MANIFEST).touch()
    np.zeros(1 << 16, np.uint8).tofile(tmp_path / "x")
    array = MappedFiles(FolderHold(tmp_path), "{}", ["x"], [1 << 16], np.uint8)[0]
    require_readable(array, [0, 60_000], 5000)
    os.truncate(tmp_path / "x", 4096)
    require_readable(array, [0], 100)
    with pytest.raises(DataError, match=r"a part of .*/x cannot be read any more: it was cut"):
        require_readable(array, [0, 50_000], 100)
    require_readable(np.zeros(3), [0], 3)  # not a map
