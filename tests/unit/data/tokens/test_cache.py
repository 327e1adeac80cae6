import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.prepared import prepare_tokens as prepare

from candlewick.artifacts.build import exclusive_build
from candlewick.artifacts.manifest import MANIFEST, Manifest, publish, staging, write_durable
from candlewick.config import DataConfig
from candlewick.data.tokens import cache as module
from candlewick.data.tokens.cache import CachedFolder, is_cached, list_cache, remove_cached, touch
from candlewick.data.tokens.dataset import TokenDataset
from candlewick.data.tokens.maps import FolderHold
from candlewick.errors import DataError

MADE = "2026-01-02T03:04:05+00:00"


@pytest.fixture
def folders(tmp_path):
    """Four folders of a cache, the oldest first, and one that is none of the cache's."""
    names = ("tokens-a", "tokenizer-b", "rows-c", "tokens-d", "mine")
    made = [tmp_path / "cache" / name for name in names]
    for age, folder in enumerate(made):
        with staging(folder) as aside:
            files = (write_durable(aside / "train-00000.bin", bytes(100)),)
            publish(aside, folder, Manifest("x", 1, {"dataset": "f" * 64}, {}, files, {}, {"time": MADE}))
        os.utime(folder, (age, age))
    return made


def left(folders) -> list[str]:
    return sorted(path.name for path in folders[0].parent.iterdir())


def test_the_least_recently_used_folder_is_the_first_of_the_list(folders):
    touch(folders[0])
    found = list_cache(folders[0].parent)
    assert [folder.name for folder in found] == ["tokenizer-b", "rows-c", "tokens-d", "tokens-a"]
    size = 100 + (folders[1] / MANIFEST).stat().st_size
    assert found[0] == CachedFolder("tokenizer-b", size, 1.0, None, MADE, "dataset ffffffffffff")
    assert list_cache(folders[0] / "none") == []


def test_a_dataset_is_listed_with_its_tokens_and_the_names_of_its_text(write, tmp_path, tokenizer_dir):
    paths = [str(write(f"{name}.txt", f"some words of {name}\n" * 900)) for name in "abcde"]
    folder = tmp_path / "cache" / "tokens-a"
    manifest, _ = prepare(DataConfig(train_shards=tuple(paths)), tokenizer_dir, folder)
    (found,) = list_cache(folder.parent)
    assert found.tokens == sum(split["tokens"] for split in manifest.details["splits"].values())
    assert found.about.endswith(" and 2 more")
    assert all(name in found.about for name in ("a.txt", "b.txt", "c.txt"))
    assert found.bytes > sum(entry.bytes for entry in manifest.files)


def test_unfinished_and_damaged_folders_are_listed_as_such(folders):
    (folders[0] / MANIFEST).unlink()
    (folders[1] / MANIFEST).write_text("{")
    found = {folder.name: folder for folder in list_cache(folders[0].parent)}
    assert (found["tokens-a"].about, found["tokens-a"].made) == ("unfinished", None)
    assert found["tokenizer-b"].about.startswith("damaged: ")


def test_folders_that_another_process_removes_are_not_listed(folders, monkeypatch):
    def read(folder):
        if folder.name == "rows-c":
            raise FileNotFoundError(folder)
        return CachedFolder(folder.name, 1, 2.0)

    monkeypatch.setattr(module.CachedFolder, "read", read)
    assert [folder.name for folder in list_cache(folders[0].parent)].count("rows-c") == 0


def test_a_folder_is_removed_with_the_leftovers_of_a_killed_removal(folders):
    folders[0].rename(folders[0].with_name(".del-tokens-a-0123abcd"))
    remove_cached(folders[1])
    assert left(folders) == ["mine", "rows-c", "tokens-d"]


def test_a_dataset_that_another_process_reads_is_not_removed(folders):
    code = (
        "import sys; from pathlib import Path\n"
        "from candlewick.data.tokens.maps import FolderHold\n"
        "hold = FolderHold(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folders[0])], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(DataError, match=r"tokens-a is in use .*when the run that uses it has ended"):
        remove_cached(folders[0])
    assert (folders[0] / "train-00000.bin").exists()
    process.communicate(b"")
    remove_cached(folders[0])
    assert not folders[0].exists()


def test_a_dataset_is_in_use_until_the_last_split_is_gone(write, tmp_path, tokenizer_dir):
    config = DataConfig(train_shards=(str(write("a.txt", "some words\n" * 1000)),))
    folder = tmp_path / "cache" / "tokens-a"
    prepare(config, tokenizer_dir, folder)
    split = TokenDataset.open(folder).split("train")
    with pytest.raises(DataError, match="in use"):
        remove_cached(folder)
    assert split.read_tokens(0, 3).size == 3
    del split
    remove_cached(folder)
    assert not folder.exists()


def test_a_dataset_that_is_being_made_is_not_removed(tmp_path):
    with exclusive_build(tmp_path / "tokens-e") as partial:
        (partial / "x").touch()
        with pytest.raises(DataError, match=r"tokens-e\.partial is in use"):
            remove_cached(partial)
    remove_cached(partial)
    assert not partial.exists()


def test_who_waits_for_the_lock_of_a_removal_finds_the_folder_gone(folders, monkeypatch):
    flock, waiting = fcntl.flock, threading.Event()
    outcome: list[str] = []

    def hold() -> None:
        try:
            FolderHold(folders[0])
        except FileNotFoundError:
            outcome.append("gone")

    def lock(file, how):
        if how == fcntl.LOCK_SH:
            waiting.set()
        flock(file, how)

    def rename(path, target):
        thread.start()
        assert waiting.wait(10)
        os.rename(path, target)  # noqa: PTH104

    thread = threading.Thread(target=hold)
    monkeypatch.setattr(fcntl, "flock", lock)
    monkeypatch.setattr(Path, "rename", rename)
    remove_cached(folders[0])
    thread.join(10)
    assert outcome == ["gone"]


def test_nothing_is_removed_where_no_lock_can_be_had(folders, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(
        DataError, match=r"nobody can tell .*tokens-a .*not supported .*remove the folder yourself"
    ):
        remove_cached(folders[0])
    assert folders[0].exists()


def test_touch_updates_folders_of_the_cache_only(folders):
    for folder in (folders[0], folders[4], folders[0].parent / "tokens-gone"):
        touch(folder)
    assert folders[0].stat().st_mtime > 1000
    assert folders[4].stat().st_mtime == 4
    assert [is_cached(folder) for folder in folders] == [True, True, True, True, False]
