"""Datasets of many shards: what opening and reading them takes, and a run under the usual limit of open files."""

import json
import re
import resource
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from tests.large_datasets import write_many_shards, write_sparse_dataset

from candlewick.data.tokens import maps
from candlewick.data.tokens.dataset import TokenDataset


def count_open(folder: Path) -> int:
    """Return how many descriptors of this process lie in a folder: other tests have files open too."""
    places: list[str] = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the descriptor that lists them
            places.append(str(path.readlink()))
    return sum(place.startswith(str(folder)) for place in places)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
def test_opening_maps_nothing_and_takes_bounded_memory_per_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(maps, "max_maps", lambda: 8)
    write_sparse_dataset(tmp_path / "ds", 3000, 20_000_000)  # 60e9 tokens
    TokenDataset.open(tmp_path / "ds")  # what is imported or made once
    tracemalloc.start()
    dataset = TokenDataset.open(tmp_path / "ds")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # 200 MB for 44,100 shards, without the 60 that Python, numpy and pydantic take
    assert peak < 3000 * 3100
    assert count_open(tmp_path / "ds") == 2
    split = dataset.split("train")
    assert split.num_tokens == 3000 * 20_000_000
    for start in np.random.default_rng(0).integers(0, split.num_tokens, 100).tolist():
        assert not split.read_tokens(start, 100).any()
    assert count_open(tmp_path / "ds") == 2 + 8


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("many") / "ds"
    write_many_shards(folder, 20_000, tokenizer)
    return folder


@pytest.mark.parametrize("packing", ["chunk", "bfd"])
def test_dataset_of_20000_shards_trains_with_256_open_files(tmp_path, tiny, many_shards, config_file, packing):
    data = {**tiny().data.model_dump(mode="json"), "train_shards": [str(many_shards)], "packing": packing}
    data["micro_batch_size"] = 16  # 12 updates read from more than 256 shards
    config = config_file(tiny(data=data, runtime={"device": "cpu", "evaluation": {"at_end": False}}))
    words = ["train", "--config", config, "--run-dir", tmp_path / "run"]
    code = "import sys; from candlewick.cli.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("done: 12 steps")


class TestCacheVerb:
    """`candlewick data cache`."""

    @pytest.fixture
    def kept(self, tmp_path, text_dir, tiny, config_file, run_candlewick) -> Path:
        """The cache of a run that is over."""
        data = {**tiny().data.model_dump(mode="json"), "cache_dir": str(tmp_path / "cache")}
        data["train_shards"] = [str(text_dir / "00.txt")]
        words = "train", "--config", config_file(tiny(data=data)), "--run-dir", tmp_path / "run"
        run_candlewick(*words, "--override", "data.cache_max_bytes=1")
        return tmp_path / "cache"

    def test_it_lists_what_lies_there_and_removes_what_is_named(self, kept, run_candlewick):
        listed = json.loads(run_candlewick("data", "cache", kept, "--json").out)
        kinds = {folder["name"].partition("-")[0]: folder for folder in listed["folders"]}
        assert (kinds.keys(), listed["cache"]) == ({"tokens", "tokenizer"}, str(kept))
        assert kinds["tokens"]["about"] == "00.txt"
        shown = run_candlewick("data", "cache", kept).out
        assert re.search(rf"{kinds['tokens']['name']} +[0-9,]{{4,}} +[0-9,]{{4,}} +0\.0 +0\.0  00\.txt\n", shown)
        assert shown.endswith(" in 2 folders\n")
        name = kinds["tokens"]["name"]
        assert name in run_candlewick("data", "cache", kept, "--remove", name, code=2).err  # and asks for --yes
        assert (kept / name).exists()
        assert run_candlewick("data", "cache", kept, "--remove", name, "--yes").out == f"removed: {name}\n"
        assert not (kept / name).exists()
        assert "has no mine" in run_candlewick("data", "cache", kept, "--remove", "mine", code=3).err
        assert run_candlewick("data", "cache", kept, "--unused-days", 1, "--yes").out == "removed: nothing\n"
        gone = json.loads(run_candlewick("data", "cache", kept, "--unused-days", 0, "--yes", "--json").out)
        assert gone["removed"] == [kinds["tokenizer"]["name"]]
        assert not [*kept.iterdir()]

    def test_it_asks_on_a_terminal(self, kept, run_candlewick, monkeypatch):
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        for answer, count in (("", 2), ("n", 2), ("y", 0)):
            monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
            run_candlewick("data", "cache", kept, "--unused-days", 0)
            assert len([*kept.iterdir()]) == count

    def test_it_keeps_what_a_run_reads(self, kept, run_candlewick):
        (folder,) = kept.glob("tokens-*")
        split = TokenDataset.open(folder).split("train")
        assert "is in use" in run_candlewick("data", "cache", kept, "--unused-days", 0, "--yes", code=3).err
        assert [path.name for path in kept.iterdir()] == [folder.name]
        assert split.read_tokens(0, 5).size == 5
