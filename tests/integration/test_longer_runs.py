"""A run that is made longer goes on behind the text that it has read, in the tokens of a longer preparation."""

import json
import re

import numpy as np
import pytest
from tests.conftest import make_text
from tests.hub_server import HubServer
from tests.prepared import plan_run, prepare

from candlewick.artifacts.manifest import MANIFEST, read_manifest
from candlewick.checkpoint.layout import list_checkpoints
from candlewick.cli.main import main
from candlewick.config.load import load_config
from candlewick.data.rows.row_order import RowOrder
from candlewick.data.tokens.dataset import TokenDataset
from candlewick.data.tokens.encode import ShardMaker
from candlewick.errors import ArtifactError, DataError
from candlewick.runs.train import run_training

FILES, ROWS = 12, 60
URI = "hf://datasets/me/web"


@pytest.fixture
def hub(hub: HubServer) -> HubServer:
    """Twelve files, each about a shard of text."""
    files = {
        f"data/{n:02}.jsonl": "".join(
            f"{json.dumps({'text': make_text(100 * n + i, 1000)})}\n" for i in range(ROWS)
        )
        for n in range(FILES)
    }
    hub.commit("datasets/me/web", {name: text.encode() for name, text in files.items()})
    return hub


@pytest.fixture
def config(tiny, hub, tmp_path):
    """Return the config of a run of so many updates on that text."""

    def make(steps: int, **data):
        own = {"train_shards": [URI], "cache_dir": str(tmp_path / "cache"), "shard_text_bytes": 1 << 16, **data}
        own |= {"validation_fraction": 0.1, "num_workers": 1, "global_batch_size": 100}
        merged = {**tiny().data.model_dump(mode="json"), **own}
        return tiny(data=merged, scheduler={"total_steps": steps, "warmup_steps": 1})

    return make


def train(config, run_dir, *, resume=True):
    assert run_training(config, run_dir, resume=resume)["steps"] == config.scheduler.total_steps
    return load_config(run_dir / "config.yaml")


def fetched(hub) -> set[str]:
    return set(re.findall(r"/(\d\d)\.jsonl", " ".join(r.path for r in hub.requests if r.method == "GET")))


def dataset(config) -> TokenDataset:
    return TokenDataset.open(config.data.prepared["tokens"])


def files(*datasets: TokenDataset) -> list[tuple[str, str]]:
    """Return names and hashes of the shards of training text, in order."""
    entries = [entry for part in datasets for entry in part.manifest.files]
    return [(entry.name, entry.sha256) for entry in entries if "/train-" in entry.name]


def test_longer_run_reads_on_where_its_tokens_end(config, hub, tmp_path):
    run = tmp_path / "run"
    short = dataset(train(config(8), run, resume=False))
    first = fetched(hub)
    hub.requests.clear()
    longer = dataset(train(config(20), run))
    assert [part.id for part in longer.parts] == [short.id, longer.id]
    assert longer.folder.parent == short.folder.parent
    assert fetched(hub)
    assert len(fetched(hub) & first) <= 2  # what was fetched ahead, or in part
    whole = prepare(config(20)).datasets["tokens"]
    assert files(short, longer) == files(whole)  # a prefix of a larger set is the same set
    assert longer.split("validation").dataset_id == short.id
    longest = dataset(train(config(28), run))
    assert len(longest.parts) == 3
    assert files(*longest.parts) == files(prepare(config(28)).datasets["tokens"])


def test_rows_of_a_longer_run_are_those_of_the_shorter_and_then_new_ones(config, tmp_path, caplog):
    run = tmp_path / "run"
    settings = train(config(8), run, resume=False)
    short = plan_run(settings, run, resume=True)
    longer = plan_run(config(20), run, resume=True)
    for packing in ("chunk", "bfd"):
        data = settings.data.replaced(packing=packing)
        a, b = (RowOrder(p.data.train, data, sequence_length=32, seed=0) for p in (short, longer))
        rows = [order.read(order.positions(0, a.num_rows)).tokens for order in (a, b)]
        assert np.array_equal(rows[0], rows[1])
        assert b.num_rows > 1.5 * a.num_rows
        assert max(b.repetitions(2000)) <= 1  # nothing is read twice
    assert "tokens has the first" not in caplog.text


def test_longer_run_equals_one_that_was_killed_while_it_prepared_more(config, tmp_path, monkeypatch):
    for name in ("whole", "killed"):
        train(config(8, cache_dir=str(tmp_path / name)), tmp_path / f"run-{name}", resume=False)
    whole = train(config(40, cache_dir=str(tmp_path / "whole")), tmp_path / "run-whole")
    plain, left = ShardMaker.run, [1]

    def run(self, *args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return plain(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(ShardMaker, "run", run)
        patch.setattr("candlewick.data.tokens.pipeline.map_in_order", map_here)
        with pytest.raises(BaseException, match="preparation stopped"):
            run_training(config(40, cache_dir=str(tmp_path / "killed")), tmp_path / "run-killed", resume=True)
    killed = train(config(40, cache_dir=str(tmp_path / "killed")), tmp_path / "run-killed")
    assert dataset(killed).id == dataset(whole).id
    last = [list_checkpoints(tmp_path / f"run-{name}" / "checkpoints")[-1] for name in ("whole", "killed")]
    assert len({(folder / "model.safetensors").read_bytes() for folder in last}) == 1


def map_here(function, items, workers, alone=None):
    """Do what worker processes do, in this process."""
    yield from ((item, (alone or function)(item)) for item in items if item is not None)


def test_run_goes_on_as_before_where_there_is_no_more_text(config, tmp_path, hub):
    run = tmp_path / "run"
    before = dataset(train(config(8, max_documents=ROWS), run, resume=False))
    train(config(60, max_documents=ROWS), run)
    hub.commit("datasets/me/web", {"README.md": b"gone"})
    after = train(load_config(run / "config.yaml").replaced(scheduler={"total_steps": 62, "warmup_steps": 1}), run)
    assert len(dataset(after).parts) in {1, 2}
    assert dataset(after).parts[0].id == before.id


def test_tokens_that_a_run_has_repeated_cannot_become_more(config, tmp_path):
    run = tmp_path / "run"
    tokens = 3000
    train(config(8, max_tokens=tokens), run, resume=False)  # read several times
    train(config(10, max_tokens=tokens), run)
    with pytest.raises(DataError, match=r"rows, more than are in the tokens .*put data.max_tokens back"):
        run_training(config(12, max_tokens=60_000), run, resume=True)
    train(config(12, max_tokens=tokens), run)


def test_longer_run_without_network_reads_its_tokens_again_where_it_is_told_so(
    config, tmp_path, monkeypatch, caplog
):
    run = tmp_path / "run"
    short = train(config(8), run, resume=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    longer = train(short.replaced(scheduler={"total_steps": 60, "warmup_steps": 1}), run)
    assert longer.data.prepared == short.data.prepared
    assert "a larger data.max_tokens reads more of it" in caplog.text


def test_orchestrate_with_more_steps_reads_on_and_is_repeated_without_effect(config, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(json.dumps(config(8).model_dump(mode="json", exclude={"tokenizer"})))
    words = ["orchestrate", "--config", "c.yaml", "--stream", "--dataset", "me/web", "--run-dir", "run"]
    for steps in (8, 20, 20):
        assert main([*words, "--steps", str(steps)]) == 0
    names = sorted(path.name for path in (tmp_path / "run").glob("tokens*"))
    assert len(names) == 2
    assert names[0] == "tokens"
    assert dataset(load_config(tmp_path / "run" / "config.yaml")).parts[0].folder.name == "tokens"


def test_part_that_is_gone_or_another_one_is_told(config, tmp_path):
    run = tmp_path / "run"
    train(config(8), run, resume=False)
    longer = dataset(train(config(20), run))
    first = longer.parts[0].folder
    aside = first.with_name("tokens-aside")
    first.rename(aside)
    with pytest.raises(ArtifactError, match=first.name):
        TokenDataset.open(longer.folder)
    other = prepare(config(12)).datasets["tokens"].folder
    other.rename(first)
    with pytest.raises(ArtifactError, match="is not the dataset that .* goes on behind"):
        TokenDataset.open(longer.folder)
    manifest = json.loads((longer.folder / MANIFEST).read_bytes())
    assert manifest["details"]["before"]["folder"] == first.name
    assert "/" not in first.name
    assert read_manifest(longer.folder).inputs["before"] == longer.parts[0].id
