import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.prepared import prepare_tokens as prepare

from candlewick.artifacts.build import exclusive_build
from candlewick.config import DataConfig
from candlewick.data.tokens.cache import touch, trim
from candlewick.data.tokens.dataset import TokenDataset


@pytest.fixture
def folders(tmp_path):
    """Four folders of 100 bytes, the oldest first, and one that is none of the cache's."""
    names = ("tokens-a", "tokenizer-b", "tokens-c", "tokens-d", "mine")
    made = [tmp_path / "cache" / name for name in names]
    for age, folder in enumerate(made):
        (folder / "shards").mkdir(parents=True)
        (folder / "shards" / "train-00000.bin").write_bytes(bytes(100))
        os.utime(folder, (age, age))
    return made


def left(folders) -> list[str]:
    return sorted(path.name for path in folders[0].parent.iterdir())


def test_trim_removes_the_least_recently_used_first(folders):
    touch(folders[0])
    trim(folders[0].parent, 250, set())
    assert left(folders) == ["mine", "tokens-a", "tokens-d"]


def test_nothing_goes_and_nothing_is_told_while_there_is_room(folders, caplog):
    trim(folders[0].parent, 400, set())
    assert len(left(folders)) == 5
    assert not caplog.records


def test_trim_keeps_folders_of_this_run_and_warns_above_the_limit(folders, caplog):
    trim(folders[0].parent, 1, {folders[0], folders[3]})
    assert left(folders) == ["mine", "tokens-a", "tokens-d"]
    assert "200 bytes in use, more than data.cache_max_bytes=1" in caplog.text


def test_trim_keeps_folders_that_another_process_uses(folders):
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from candlewick.data.tokens.dataset import _map_file\n"
        "held = _map_file(Path(sys.argv[1]), np.uint8); print('held', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(folders[0] / "shards" / "train-00000.bin")]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    with exclusive_build(folders[0].parent / "tokens-e") as partial:
        trim(folders[0].parent, 1, set())
        assert left(folders) == ["mine", "tokens-a", partial.name]
    process.communicate(b"")
    trim(folders[0].parent, 1, set())
    assert left(folders) == ["mine"]


def test_trim_keeps_an_open_dataset(write, tmp_path, tokenizer_dir):
    config = DataConfig(train_shards=(str(write("a.txt", "some words\n" * 1000)),))
    folder = tmp_path / "cache" / "tokens-a"
    prepare(config, tokenizer_dir, folder)
    split = TokenDataset.open(folder).split("train")
    trim(folder.parent, 1, set())
    assert folder.exists()
    del split
    trim(folder.parent, 1, set())
    assert not folder.exists()


def test_trim_skips_folders_that_another_process_removes(folders, monkeypatch):
    was = Path.stat

    def stat(path, **more):
        if "tokens-c" in path.parts:
            raise FileNotFoundError(path)
        return was(path, **more)

    monkeypatch.setattr(Path, "stat", stat)
    trim(folders[0].parent, 100, set())
    monkeypatch.undo()
    assert left(folders) == ["mine", "tokens-c", "tokens-d"]


def test_trim_removes_leftovers_of_a_killed_removal(folders):
    doomed = folders[0].rename(folders[0].with_name(".del-tokens-a-0123abcd"))
    trim(folders[1].parent, 1000, set())
    assert not doomed.exists()


def test_touch_updates_folders_of_the_cache_only(folders):
    for folder in (folders[0], folders[4], folders[0].parent / "tokens-gone"):
        touch(folder)
    assert folders[0].stat().st_mtime > 1000
    assert folders[4].stat().st_mtime == 4
