"""Text of this disk and of the Hub becomes equal shards after faults, kills and restarts."""

import re
import shutil
import threading
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from tests.conftest import make_text
from tests.corpora import jsonl, parquet
from tests.hub_server import HubServer
from tests.prepared import prepare_tokens as prepare
from tests.waiting import wait_until

from candlewick.config import DataConfig
from candlewick.data.text.downloads import Downloads
from candlewick.data.text.file_ranges import Split
from candlewick.data.text.find import open_text
from candlewick.data.tokens import pipeline
from candlewick.data.tokens import prepare as prepare_module
from candlewick.data.tokens.dataset import TokenDataset
from candlewick.data.tokens.prepare import EncodeJob, prepare_tokens
from candlewick.errors import ConfigError, DataError, MachineError

URI = "hf://datasets/me/web"
ROWS = 40


def rows(number: int) -> list[str]:
    """Return the documents of one file."""
    return [f"{number} {row}: {make_text(100 * number + row, 200)}" for row in range(ROWS)]


FILES = {f"data/{n:03}.parquet": parquet(rows(n), 8, id=range(ROWS)) for n in range(3)} | {
    "data/003.jsonl": jsonl(rows(3))
}


@pytest.fixture
def hub(hub: HubServer) -> HubServer:
    hub.commit("datasets/me/web", FILES)
    return hub


def config(**settings) -> DataConfig:
    text = {"train_shards": (URI,), "shard_text_bytes": 1 << 16, "validation_fraction": 0.1, "num_workers": 1}
    return DataConfig(**{**text, **settings})


def map_here(function, items, workers, alone=None):
    """Do what worker processes do, in this process."""
    yield from ((item, (alone or function)(item)) for item in items if item is not None)


@pytest.fixture
def make(tokenizer, tmp_path, monkeypatch):
    """Prepare into a folder, of one worker in this process: `make("name", **settings)`."""

    def make(name: str, num_workers: int = 1, **settings):
        with monkeypatch.context() as patch:
            if num_workers == 1:
                patch.setattr(pipeline, "map_in_order", map_here)
            return prepare(config(num_workers=num_workers, **settings), tokenizer, tmp_path / name)[0]

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
    assert whole // 3 <= found < 2 * whole // 3
    assert fetched(hub) == ["000.parquet", "001.parquet", "002.parquet"]  # the last shows that a shard is full
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


def test_next_file_is_fetched_ahead_until_the_tokens_may_be_enough(hub, make, monkeypatch):
    whole = make("whole").details["splits"]["train"]["tokens"]
    hub.requests.clear()
    add = pipeline.TaskResults.add

    def add_later(self, *told):
        if not self.tasks:  # of the first file, which the beginning of the second one ends
            wait_until(lambda: "002.parquet" in fetched(hub), "the third file")
        add(self, *told)

    monkeypatch.setattr(pipeline.TaskResults, "add", add_later)
    make("more", max_tokens=2 * whole)


class Killed(BaseException):
    """Like `kill -9`."""


@pytest.mark.parametrize("moment", [1, 2, 3, 4])
def test_killed_preparation_continues_to_the_same_dataset(hub, make, monkeypatch, moment):
    expected = make("clean").id
    add = pipeline.TaskResults.add

    def run(self, task, receipt, backend=""):
        if len(self.tasks) + 1 == moment:
            raise Killed
        add(self, task, receipt, backend)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.TaskResults, "add", run)
        with suppress(Killed):
            make("killed")
    hub.requests.clear()
    assert make("killed").id == expected
    assert not {f"{number:03}.parquet" for number in range(moment - 1)} & set(fetched(hub))  # a file is a task


def test_damaged_stream_notes_are_ignored(hub, make, tmp_path):
    expected = make("clean").id
    notes = tmp_path / "dirty.partial" / "train-journal.jsonl"
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


def test_no_download_runs_on_after_an_error(hub, make):
    hub.commit("datasets/me/web", FILES | {"data/000.jsonl": b"no row\n" * 30_000})
    hub.fail("GET .*/000.parquet", "stall", "stall")
    hub.stall_seconds = 1
    with pytest.raises(DataError, match="row 1"):
        make("out")
    assert hub.asked("GET .*/000.parquet")
    assert not [thread for thread in threading.enumerate() if thread.name == "fetch"]


def test_stream_progress_counts_tokens_of_the_budget_or_bytes_of_the_files(hub, tokenizer, tmp_path):
    told: list[tuple[int, int]] = []
    prepare(config(max_tokens=9000), tokenizer, tmp_path / "a", progress=lambda *now: told.append(now))
    assert told[-1] == (9000, 9000)
    told.clear()
    prepare(config(), tokenizer, tmp_path / "b", progress=lambda *now: told.append(now))
    assert told[-1] == (sum(map(len, FILES.values())),) * 2


def test_progress_looks_through_the_files_once_and_not_after_each_task(tokenizer, tmp_path, monkeypatch):
    class Files(tuple):
        def __iter__(self):
            looks.append(1)
            return super().__iter__()

    (tmp_path / "a.jsonl").write_bytes(jsonl([text for n in range(9) for text in rows(n)]))
    monkeypatch.setattr(pipeline, "map_in_order", map_here)
    seen: list[int] = []
    for name, shard_bytes in (("one", 1 << 24), ("many", 1 << 16)):
        looks: list[int] = []
        settings = config(train_shards=(str(tmp_path / "a.jsonl"),), shard_text_bytes=shard_bytes)
        job = EncodeJob.from_config(settings, tokenizer)
        assert job.train is not None
        job.train.files = Files(job.train.files)
        manifest, _ = prepare_tokens(job, tmp_path / name, progress=lambda *_: None)
        assert (len(manifest.details["shards"]) > 4) is (name == "many")
        seen.append(len(looks))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("settings", "ahead"),
    [
        ({}, [True] * 4),
        ({"max_tokens": 500}, [False, False]),  # the second file shows that the first one fills its shard
        ({"max_documents": 50}, [True, False]),
        ({"max_documents": 40}, [False]),
    ],
)
def test_one_file_is_fetched_ahead_unless_there_may_be_enough(hub, make, monkeypatch, settings, ahead):
    wanted = []
    files = Downloads.files
    monkeypatch.setattr(
        Downloads,
        "files",
        lambda self, start, wants_next: files(
            self, start, lambda file: wanted.append(wants_next(file)) or wanted[-1]
        ),
    )
    make("out", **settings)
    assert wanted == ahead


def test_all_text_of_the_hub_is_there_without_a_warning_and_progress_after_each_file(
    hub, tokenizer, tmp_path, caplog
):
    told = []
    manifest, _ = prepare(config(), tokenizer, tmp_path / "all", progress=lambda *now: told.append(now))
    sizes = [len(content) for content in FILES.values()]
    assert told == [(done, sum(sizes)) for done in accumulate(sizes, initial=0)]
    assert manifest.details["left_out"] == {"duplicates": 0, "copies": 0, "unanswered": 0, "bad rows": 0}
    tokens = manifest.details["splits"]["train"]["tokens"]
    prepare(config(max_tokens=tokens), tokenizer, tmp_path / "exactly")
    assert "wanted" not in caplog.text


@pytest.fixture
def books(tmp_path) -> str:
    """A folder of six long documents, whose tails are held out."""
    folder = tmp_path / "books"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.txt").write_text(make_text(number, 20_000))
    return str(folder)


def test_max_tokens_of_local_text_holds_out_as_much_less(make, books):
    whole, part = (make(name, train_shards=(books,), **limit) for name, limit in LIMITED.items())
    trained, held = (
        [m.details["splits"][split]["tokens"] for m in (whole, part)] for split in ("train", "validation")
    )
    assert 20_000 <= trained[1] < 20_000 + trained[0] / 6
    assert 0 < held[1] / trained[1] < 2 * held[0] / trained[0]


LIMITED = {"whole": {"validation_fraction": 0.1}, "part": {"validation_fraction": 0.1, "max_tokens": 20_000}}


@pytest.mark.parametrize("count", [1, 4])
def test_max_documents_of_local_text_is_exact_and_some_text_is_held_out(make, books, count):
    splits = make("out", train_shards=(books,), validation_fraction=0.01, max_documents=count).details["splits"]
    assert splits["train"]["documents"] == count
    assert splits["validation"]["documents"] > 0


def test_max_documents_of_local_rows_takes_the_first(make, tmp_path, tokenizer):
    (tmp_path / "a.jsonl").write_bytes(jsonl(rows(0)))
    (tmp_path / "b.jsonl").write_bytes(jsonl(rows(1)))
    both = (str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"))
    make("out", train_shards=both, validation_shards=(both[1],), max_documents=ROWS + 3)
    texts = [tokenizer.decode(list(ids)[1:]) for ids in documents(tmp_path / "out", "train")]
    assert texts == rows(0) + rows(1)[:3]


@pytest.mark.parametrize("count", [500, 870, 890, 2000])
def test_max_documents_never_reaches_what_is_held_out(make, tmp_path, count):
    texts = [f"row {row}: {make_text(row, 20)}" for row in range(900)]
    (tmp_path / "a.parquet").write_bytes(parquet(texts))
    make("out", train_shards=(str(tmp_path / "a.parquet"),), max_documents=count, validation_fraction=0.05)
    train, held = (documents(tmp_path / "out", side) for side in ("train", "validation"))
    assert not set(train) & set(held)
    assert len(train) == min(count, 900 - len(held))


def test_longer_preparation_begins_with_the_shards_of_the_shorter(hub, make):
    short, long = (make(f"of-{count}", max_tokens=count).details["shards"] for count in (9000, 30_000))
    assert len(short) < len(long)
    assert long[: len(short)] == short


def test_tails_that_another_source_changes_are_not_taken_from_the_journal(make, tmp_path, tokenizer, monkeypatch):
    texts = rows(0)
    (tmp_path / "a.jsonl").write_bytes(jsonl(texts))
    settings = {"train_shards": (str(tmp_path / "a.jsonl"),), "shard_text_bytes": 1 << 16}
    job = EncodeJob.from_config(config(**settings), tokenizer)
    (tmp_path / "b.jsonl").write_bytes(jsonl(rows(1)[:5] + texts[:2]))
    other = open_text([str(tmp_path / "b.jsonl")], job.config)

    def prepare_beside(sources, name):
        return prepare_tokens(replace(job, sources=sources), tmp_path / name)[0]

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "publish", stop)
        with suppress(Killed):
            prepare_beside((job.train,), "out")
    assert prepare_beside((job.train, other), "out").id == prepare_beside((job.train, other), "clean").id


def stop(*_args):
    raise Killed
