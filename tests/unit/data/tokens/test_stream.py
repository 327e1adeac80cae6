"""Streaming a Hub dataset into token shards: equal shards after faults, kills and restarts."""

import io
import json
import re
import shutil
from contextlib import suppress
from itertools import accumulate, pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import make_text
from tests.hub_server import HubServer
from tests.prepared import prepare_tokens as prepare

from candlewick.config import DataConfig
from candlewick.data.text.file_ranges import Split
from candlewick.data.text.source_files import SourceFiles
from candlewick.data.tokens import stream as stream_module
from candlewick.data.tokens.dataset import TokenDataset
from candlewick.errors import ConfigError, DataError, MachineError

URI = "hf://datasets/me/web"
ROWS = 40


def rows(number: int) -> list[str]:
    """Return the documents of one file."""
    return [f"{number} {row}: {make_text(100 * number + row, 120)}" for row in range(ROWS)]


def parquet(texts: list[str]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": texts, "id": range(len(texts))}), buffer, row_group_size=8)
    return buffer.getvalue()


def jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


FILES = {f"data/{n:03}.parquet": parquet(rows(n)) for n in range(3)} | {"data/003.jsonl": jsonl(rows(3))}


@pytest.fixture
def hub(hub: HubServer) -> HubServer:
    hub.commit("datasets/me/web", FILES)
    return hub


def config(**settings) -> DataConfig:
    text = {"train_shards": (URI,), "shard_text_bytes": 1 << 16, "validation_fraction": 0.1, "num_workers": 1}
    return DataConfig(**{**text, **settings})


@pytest.fixture
def make(tokenizer, tmp_path):
    """Prepare into a folder: `make("name", **settings)`."""

    def make(name: str, **settings):
        return prepare(config(**settings), tokenizer, tmp_path / name)[0]

    return make


def fetched(hub) -> list[str]:
    asked = " ".join(r.path for r in hub.requests if r.method == "GET")
    return sorted(set(re.findall(r"/(\d{3}\.\w+)", asked)))


def documents(folder: Path, split: Split) -> list[tuple[int, ...]]:
    own = TokenDataset.open(folder).split(split)
    ids = own.read_tokens(0, own.num_tokens).tolist()
    starts = [place for place, token in enumerate(ids) if token == 0] + [len(ids)]
    return [tuple(ids[a:b]) for a, b in pairwise(starts)]


def test_streamed_dataset_has_the_documents_of_the_local_files(hub, make, tmp_path):
    make("streamed")
    for name, content in FILES.items():
        path = tmp_path / "local" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    local = str(tmp_path / "local")
    make("again", train_shards=(local,), validation_shards=(local,))  # few documents: else tails are held out
    found = documents(tmp_path / "streamed", "train") + documents(tmp_path / "streamed", "validation")
    assert sorted(found) == sorted(documents(tmp_path / "again", "train"))
    assert not list(tmp_path.glob("streamed.*"))


def test_streamed_dataset_does_not_depend_on_workers_or_network_faults(hub, make):
    first = make("one")
    assert make("two", num_workers=2).id == first.id
    for number, fault in enumerate(("drop", "cut", "flip", "503", "short")):
        hub.fail(rf"GET .*00{number % 4}", fault)
        hub.fail("GET .*tree", "drop" if fault == "flip" else fault)  # nothing vouches for a listing but TLS
        assert make(fault).id == first.id


def test_max_tokens_ends_a_stream_and_its_downloads(hub, make, tmp_path):
    whole = make("whole").details["splits"]["train"]["tokens"]
    hub.requests.clear()
    manifest = make("part", max_tokens=whole // 3)
    found = manifest.details["splits"]["train"]["tokens"]
    assert whole // 3 <= found < whole // 2
    assert fetched(hub) == ["000.parquet", "001.parquet"]
    assert make("other", max_tokens=whole // 3, num_workers=2).id == manifest.id
    # what was prepared beyond the budget is not in it
    names = {path.name for path in (tmp_path / "part" / "shards").iterdir()}
    assert names == {Path(entry.name).name for entry in manifest.files if entry.name.startswith("shards/")}


@pytest.mark.parametrize("count", [1, 39, 40, 41, 130, 160])
def test_max_documents_is_exact_for_a_stream(hub, make, count):
    splits = make("out", max_documents=count, validation_shards=(f"{URI}/data/003.jsonl",)).details["splits"]
    assert splits["train"]["documents"] == count
    assert splits["validation"]["documents"] == ROWS
    assert len(set(fetched(hub)) - {"003.jsonl"}) == min(3, -(-count // ROWS))


class Killed(BaseException):
    """Like `kill -9`."""


@pytest.mark.parametrize("moment", [1, 2, 3, 5, 8])
def test_killed_stream_continues_to_the_same_dataset(hub, make, monkeypatch, moment):
    expected = make("clean").id
    real, calls = stream_module.run_tasks, []

    def run(*args, **kwargs):
        calls.append(1)
        if len(calls) == moment:
            raise Killed
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(stream_module, "run_tasks", run)
        with suppress(Killed):
            make("killed")
    hub.requests.clear()
    assert make("killed").id == expected
    waves = 2  # of each file
    assert not {f"{n:03}.parquet" for n in range((moment - 1) // waves)} & set(fetched(hub))


def test_damaged_stream_notes_are_ignored(hub, make, tmp_path):
    expected = make("clean").id
    notes = tmp_path / "dirty.partial" / "train-stream.json"
    for content in ("{", '{"identity": 1, "files": []}', "[]"):
        notes.parent.mkdir(exist_ok=True)
        notes.write_text(content)
        assert make("dirty").id == expected
        shutil.rmtree(tmp_path / "dirty")


def test_damaged_finished_shard_is_encoded_again(hub, make, tmp_path):
    expected = make("clean").id
    hub.fail("GET .*003.jsonl", *["503"] * 40)
    with pytest.raises(MachineError):
        make("out")
    shard = next((tmp_path / "out.partial" / "shards").glob("train-00001*.bin"))
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    hub._planned.clear()
    assert make("out").id == expected


def test_finished_stream_fetches_nothing_again(hub, make):
    commit = hub.repos["datasets/me/web"].refs["main"]
    make("out", train_shards=(f"{URI}@{commit}",))
    hub.requests.clear()
    make("out", train_shards=(f"{URI}@{commit}",))
    assert not fetched(hub)


def test_validation_may_come_from_the_hub_and_training_from_disk(hub, make, tmp_path):
    (tmp_path / "own.txt").write_text(make_text(7, 4000))
    own = {"train_shards": (str(tmp_path / "own.txt"),), "validation_shards": (f"{URI}/data/001.parquet",)}
    splits = make("mixed", **own).details["splits"]
    assert (splits["train"]["documents"], splits["validation"]["documents"]) == (1, ROWS)


def test_validation_without_a_path_is_the_validation_split(hub, make):
    hub.commit("datasets/me/split", {"train.jsonl": jsonl(rows(0)), "valid.jsonl": jsonl(rows(1)[:7])})
    both = ("hf://datasets/me/split",)
    splits = make("split", train_shards=both, validation_shards=both).details["splits"]
    assert (splits["train"]["documents"], splits["validation"]["documents"]) == (ROWS, 7)


def test_stream_notes_of_other_settings_are_ignored(hub, make, tmp_path):
    hub.fail("GET .*002.parquet", *["503"] * 40)
    with pytest.raises(MachineError):
        make("out", validation_fraction=0.5)
    hub._planned.clear()
    assert make("out").id == make("clean").id


def test_stream_with_fewer_tokens_than_max_tokens_warns(hub, make, caplog):
    make("all", max_tokens=10**9)
    assert "fewer than the 1000000000 wanted" in caplog.text


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        ({"deduplicate": True}, ConfigError, "data.deduplicate reads all text twice"),
        ({"text_field": "body"}, DataError, "has no column 'body', only text, id"),
        ({"hub_split": "test"}, DataError, "no text files of the split 'test'"),
        ({"train_shards": ("hf://datasets/me/none",)}, DataError, "is not on the Hub"),
        ({"train_shards": ("hf://me/web",)}, DataError, "is a model, not a dataset"),
    ],
)
def test_impossible_stream_settings_are_refused(hub, make, settings, error, sentence):
    with pytest.raises(error, match=sentence):
        make("out", **settings)


def test_stream_without_network_keeps_finished_files(hub, make):
    expected = make("clean").id
    hub.fail("GET .*002.parquet", *["503"] * 40)
    with pytest.raises(MachineError, match="what is finished is kept"):
        make("out")
    hub._planned.clear()
    hub.requests.clear()
    assert make("out").id == expected
    assert "000.parquet" not in fetched(hub)


def test_stream_progress_counts_tokens_of_the_budget_or_bytes_of_the_files(hub, tokenizer, tmp_path):
    told: list[tuple[int, int]] = []
    prepare(config(max_tokens=9000), tokenizer, tmp_path / "a", progress=lambda *now: told.append(now))
    assert told[-1] == (9000, 9000)
    told.clear()
    prepare(config(), tokenizer, tmp_path / "b", progress=lambda *now: told.append(now))
    assert told[-1] == (sum(map(len, FILES.values())),) * 2


def test_one_file_is_fetched_ahead_unless_there_may_be_enough(hub, make, monkeypatch):
    asked = []
    iter_downloaded = SourceFiles.iter_downloaded
    monkeypatch.setattr(
        SourceFiles,
        "iter_downloaded",
        lambda self, start, to, ahead, more: asked.append(ahead) or iter_downloaded(self, start, to, ahead, more),
    )
    for settings in ({}, {"max_tokens": 500}, {"max_documents": 50}):
        make(f"of-{len(asked)}", **settings)
    assert asked == [1, 0, 0]


def test_all_text_of_the_hub_is_there_without_a_warning_and_progress_after_each_file(
    hub, tokenizer, tmp_path, caplog
):
    told = []
    manifest, _ = prepare(config(), tokenizer, tmp_path / "all", progress=lambda *now: told.append(now))
    sizes = [len(content) for content in FILES.values()]
    assert told == [(done, sum(sizes)) for done in accumulate(sizes)]
    assert manifest.details["left_out"] == {"duplicates": 0, "unanswered": 0}
    tokens = manifest.details["splits"]["train"]["tokens"]
    prepare(config(max_tokens=tokens), tokenizer, tmp_path / "exactly")
    assert "wanted" not in caplog.text
