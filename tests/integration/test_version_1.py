"""A run of checkpoint format version 1, which commit feef26f wrote and left after 6 of 12 updates, is read.

So is one on token datasets of format version 1, which commit 7ab7d24 wrote.
"""

import json
import shutil
from pathlib import Path

import pytest
from tests.conftest import make_text, tiny_config
from tests.prepared import newest_checkpoint

from candlewick.artifacts.manifest import read_manifest
from candlewick.checkpoint.layout import list_checkpoints
from candlewick.checkpoint.open import Checkpoint
from candlewick.config import DataConfig
from candlewick.config.load import load_config
from candlewick.errors import ConfigError
from candlewick.runs.evaluate import evaluate_checkpoint
from candlewick.runs.orchestrate import orchestrate
from candlewick.runs.train import run_training
from candlewick.train import trainer

RUN = Path(__file__).parents[1] / "version_1" / "run"
MODEL = {"hidden_size": 16, "num_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32}


@pytest.fixture
def run(tmp_path) -> Path:
    return shutil.copytree(RUN, tmp_path / "run")


@pytest.fixture
def config(tmp_path):
    """The settings that it was trained with, and the tokens of version 1 that it read."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "00.txt").write_text(make_text(0, 3500))
    sections = {"model": MODEL, "optimizer": {"algorithm": "adam_w"}}
    return tiny_config(RUN.with_name("tokens"), tmp_path / "cache", **sections)


def losses(run: Path) -> dict[int, float]:
    """Return the training losses of a run by step."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}


def test_run_of_version_1_goes_on_as_a_new_one_would(run, config, tmp_path):
    before = losses(run)
    assert list(before) == [1, 2, 3, 4, 5, 6]
    run_training(config, run, resume=True)
    run_training(config, tmp_path / "new", resume=False)
    assert losses(run) == pytest.approx(losses(tmp_path / "new"), rel=1e-5)  # another machine may have written it
    assert read_manifest(newest_checkpoint(run / "checkpoints")).version == 2
    (aside,) = run.glob("best.v1-*")
    assert list_checkpoints(aside) == [aside / "step_000000004"]
    state = Checkpoint.open(run, need={"weights"}).state["counters"]
    assert state["best_loss"] == pytest.approx(
        Checkpoint.open(tmp_path / "new", need={"weights"}).state["counters"]["best_loss"], rel=1e-5
    )
    assert (run / "best").resolve() == run / "checkpoints" / f"step_{state['best_steps'][-1]:09d}"


def test_run_of_version_1_that_saved_nothing_but_its_best_is_resumed_from_it(run, config):
    shutil.rmtree(run / "checkpoints")
    assert run_training(config, run, resume=True)["steps"] == 12
    assert list(losses(run)) == list(range(1, 13))


def test_checkpoint_of_version_1_is_evaluated_and_started_from(run, config, tmp_path):
    text = tmp_path / "text" / "00.txt"
    data = DataConfig(train_shards=(str(text),), cache_dir=tmp_path / "cache")
    for path in (run, run / "best", run / "checkpoints" / "step_000000005"):
        assert 5 < evaluate_checkpoint(path, data)["eval/loss"] < 6
    child = config.replaced(runtime={"checkpoint": {"init_from": str(run)}})
    assert run_training(child, tmp_path / "child", resume=False)["steps"] == 12


def test_checkpoint_of_version_1_has_all_its_parts_and_is_verified(run):
    newest = list_checkpoints(run / "checkpoints")[-1]
    checkpoint = Checkpoint.open(newest, need={"weights", "optimizer"})
    assert checkpoint.config is not None
    assert checkpoint.state["counters"]["step"] == 5
    assert any(name.endswith(".exp_avg") for name in checkpoint.optimizer())
    assert read_manifest(newest).version == 1
    (newest / "optimizer.safetensors").write_bytes(b"x")
    with pytest.raises(Exception, match=r"optimizer\.safetensors has 1 bytes"):
        Checkpoint.open(newest, need={"weights", "optimizer"})
    assert Checkpoint.open(newest, need={"weights"}).weights()


def test_best_copy_that_a_run_of_version_1_starts_from_is_saved_before_it_is_set_aside(run, config, monkeypatch):
    shutil.rmtree(run / "checkpoints")

    def crash(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer, "train_step", crash)
        run_training(config, run, resume=True)
    assert [folder.name for folder in list_checkpoints(run / "checkpoints")] == ["step_000000004"]
    assert run_training(config, run, resume=True)["steps"] == 12


TOKENS_RUN = RUN.with_name("tokens_run")
TOKENS_LOSSES = (
    *(5.752828, 5.821579, 5.793358, 5.778721, 5.752068, 5.793330),
    *(5.731789, 5.750481, 5.805088, 5.786677, 5.697721, 5.693619),
)


@pytest.fixture
def orchestrated(tmp_path, monkeypatch):
    """Run `orchestrate` on a run that 7ab7d24 ended after 6 updates, on a dataset of version 1, for 12 updates."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").mkdir()
    for number in range(3):
        (tmp_path / "text" / f"{number:02}.txt").write_text(make_text(number, 900))
    run = shutil.copytree(TOKENS_RUN, tmp_path / "run")
    config = tiny_config(Path("text"), Path("cache"), model=MODEL, optimizer={"algorithm": "adam_w"})
    runtime = {"precision": "fp32", "checkpoint": {"every_n_steps": 3}, "sample": None}
    config = config.replaced(runtime={**runtime, "evaluation": {"every_n_steps": 3, "max_tokens": 256}})

    def resume(**changes) -> dict[int, float]:
        orchestrate(config.replaced(**changes), run, lambda _: None)
        return losses(run)

    return resume


def test_run_on_tokens_of_version_1_goes_on_with_them(orchestrated, tmp_path):
    found = orchestrated()
    assert list(found.values()) == pytest.approx(TOKENS_LOSSES, rel=1e-5)  # another machine has written them
    assert read_manifest(tmp_path / "run" / "tokens") == read_manifest(TOKENS_RUN / "tokens")


def test_run_on_tokens_of_version_1_goes_on_without_its_text(tmp_path):
    run = shutil.copytree(TOKENS_RUN, tmp_path / "run")
    config = load_config(run / "config.yaml").replaced(scheduler={"total_steps": 12})
    run_training(config, run, resume=True)
    assert list(losses(run).values()) == pytest.approx(TOKENS_LOSSES, rel=1e-5)


def test_run_on_tokens_of_version_1_refuses_other_text(orchestrated, tmp_path):
    (tmp_path / "text" / "00.txt").write_text(make_text(9, 900))
    with pytest.raises(ConfigError, match="holds a run on other text"):
        orchestrated()


def test_tokens_of_version_1_are_trained_on_resumed_and_read(tmp_path, run_candlewick):
    tokens = shutil.copytree(TOKENS_RUN / "tokens", tmp_path / "tokens")
    config = tiny_config(tokens, tmp_path / "cache", model=MODEL, optimizer={"algorithm": "adam_w"})
    config = config.replaced(runtime={"precision": "fp32", "sample": None})
    for steps, resume in ((6, False), (12, True)):
        run_training(config.replaced(scheduler={"total_steps": steps}), tmp_path / "run", resume=resume)
    assert list(losses(tmp_path / "run").values()) == pytest.approx(TOKENS_LOSSES, rel=1e-5)
    assert json.loads(run_candlewick("data", "verify", tokens, "--json").out)["ok"]
    assert "tokens" in run_candlewick("data", "inspect", tokens).out


def test_tokens_of_version_1_are_made_again_of_text_for_a_new_run(tmp_path, orchestrated):
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    assert list(orchestrated()) == list(range(1, 13))
    assert read_manifest(tmp_path / "run" / "tokens").version == 2
