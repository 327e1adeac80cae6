import json
import logging

import pytest
import torch

from candlewick.checkpoint.layout import list_checkpoints
from candlewick.config import DataConfig
from candlewick.errors import CheckpointError, ConfigError, DataError
from candlewick.pipeline.training import open_data, run_training
from candlewick.train.build import build, global_batch_rows, vocabulary_rows


@pytest.fixture
def built(tmp_path):
    """Build trainers on the CPU and close what they opened."""
    trainers = []

    def make(config, *, run_dir=tmp_path / "run", **settings):
        trainers.append(build(config, open_data(config), run_dir, **settings))
        return trainers[-1]

    yield make
    for trainer in trainers:
        trainer.parts.loader.close()
        with trainer.parts.reporter.running(trainer.state):
            pass


def test_the_vocabulary_is_as_configured_or_rounded_up(tokenizer):
    assert tokenizer.vocab_size == 300
    assert vocabulary_rows(None, tokenizer) == 320
    assert vocabulary_rows(300, tokenizer) == 300
    with pytest.raises(ConfigError, match=r"model\.vocab_size=299 is smaller than the tokenizer's 300 tokens"):
        vocabulary_rows(299, tokenizer)


@pytest.mark.parametrize(
    ("settings", "ranks", "rows"),
    [
        ({}, 1, 4),
        ({}, 2, 8),
        ({"global_batch_size": 12}, 1, 12),
        ({"global_batch_tokens": 1000}, 1, 60),
        ({"global_batch_tokens": 1000}, 4, 48),
    ],
)
def test_the_global_batch_in_rows(settings, ranks, rows):
    assert global_batch_rows(DataConfig(micro_batch_size=4, **settings), 16, ranks) == rows


@pytest.mark.parametrize("settings", [{"global_batch_size": 6}, {"global_batch_tokens": 63}])
def test_a_global_batch_that_is_no_whole_number_of_micro_batches(settings):
    with pytest.raises(ConfigError, match=r"\((6|63)\) is not a whole number of micro-batches of 4 rows of 16"):
        global_batch_rows(DataConfig(micro_batch_size=4, **settings), 16, 1)


def test_a_new_run_begins_at_nothing_with_seeded_weights(tiny, built, tmp_path):
    first, second = (built(tiny(), run_dir=tmp_path / name) for name in "ab")
    other = built(tiny(runtime={"seed": 7}), run_dir=tmp_path / "c")
    assert first.state.step == first.parts.loader.samples == 0
    assert first.state.total_steps == 12
    weights = [dict(trainer.parts.objective.named_parameters()) for trainer in (first, second, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(*(w["model.model.embed_tokens.weight"] for w in weights[1:]))
    assert first.parts.sample is None
    assert not list((tmp_path / "a").glob("checkpoints/*"))


def test_leftovers_of_a_killed_save_are_removed(tiny, built, tmp_path):
    for folder in ("checkpoints", "best"):
        (tmp_path / "run" / folder / ".tmp-step_000000001-abc").mkdir(parents=True)
    built(tiny())
    assert not list(tmp_path.glob("run/*/.tmp-*"))


def test_what_a_checkpoint_holds_is_what_the_objects_say(tiny, built):
    trainer = built(tiny())
    snapshot = trainer.parts.snapshot()
    assert snapshot.step == 0
    assert snapshot.vocab_size == 320
    assert snapshot.state["config"] == tiny().model_dump(mode="json")
    assert snapshot.state["loader"]["samples"] == 0
    assert snapshot.state["threads"] == torch.get_num_threads()
    json.dumps(snapshot.state, allow_nan=False)


def test_a_resumed_run_stands_where_its_checkpoint_does(tiny, built, trained_copy):
    trainer = built(tiny(), run_dir=trained_copy, resume_run=True)
    assert (trainer.state.step, trainer.state.tokens, trainer.state.total_steps) == (12, 12 * 4 * 32, 12)
    assert trainer.parts.loader.samples == 12 * 4
    assert trainer.saved_step == 12
    assert trainer.state.best_loss is not None


def test_the_end_of_a_resumed_run_is_read_anew(tiny, built, trained_copy):
    def end(**totals):
        config = tiny(scheduler={"total_steps": None, "warmup_steps": 2, **totals})
        return built(config, run_dir=trained_copy, resume_run=True).state.total_steps

    assert end(total_steps=20) == 20
    assert end(total_tokens=2048) == 16
    assert end(total_seconds=60.0) is None


def test_a_time_budget_that_became_steps_is_kept_until_it_changes(tiny, built, tmp_path):
    def config(seconds):
        scheduler = {"total_steps": None, "total_seconds": seconds, "warmup_steps": 2}
        return tiny(scheduler=scheduler, runtime={**tiny().runtime.model_dump(mode="json"), "sample": None})

    outcome = run_training(config(0.02), tmp_path / "run", resume=False)
    assert built(config(0.02), resume_run=True).state.total_steps == outcome["steps"]
    assert built(config(3600.0), resume_run=True).state.total_steps is None


def test_another_number_of_threads_is_told(tiny, built, trained_copy, caplog):
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with caplog.at_level(logging.WARNING):
            built(tiny(), run_dir=trained_copy, resume_run=True)
    finally:
        torch.set_num_threads(threads)
    assert f"the run had {threads} threads, this process has {threads + 1}" in caplog.text


@pytest.mark.parametrize(
    ("sections", "error", "said"),
    [
        ({"model": {"hidden_size": 32, "num_layers": 2, "num_attention_heads": 4}}, CheckpointError, "shape"),
        (
            {
                "model": {
                    "hidden_size": 32,
                    "num_layers": 2,
                    "num_attention_heads": 2,
                    "max_position_embeddings": 64,
                }
            },
            CheckpointError,
            r"model\.max_position_embeddings \(was 32, is 64\).*put them back",
        ),
        ({"optimizer": {"algorithm": "adam_w"}}, CheckpointError, "optimizer state"),
        ({"runtime": {"seed": 1}}, DataError, "seed 42, now it is 1"),
        ({"data": {"sequence_length": 16}}, DataError, "sequence_length 32, now it is 16"),
    ],
)
def test_a_run_of_other_settings_cannot_be_resumed(tiny, built, trained_copy, sections, error, said):
    if "data" in sections:
        sections = {"data": {**tiny().data.model_dump(mode="json"), **sections["data"]}}
    with pytest.raises(error, match=said):
        built(tiny(**sections), run_dir=trained_copy, resume_run=True)


def test_there_must_be_something_to_resume(tiny, built, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint in .*without --resume"):
        built(tiny(), resume_run=True)


def test_checkpoints_lie_where_the_config_says(tiny, tmp_path):
    runtime = {
        **tiny().runtime.model_dump(mode="json"),
        "checkpoint": {"directory": str(tmp_path / "elsewhere"), "every_n_steps": 5, "max_keep": 2},
        "evaluation": {"every_n_steps": 4, "max_batches": 2, "best": {"directory": str(tmp_path / "good")}},
    }
    run_training(tiny(runtime=runtime), tmp_path / "run", resume=False)
    assert [folder.name for folder in list_checkpoints(tmp_path / "elsewhere")] == [
        "step_000000010",
        "step_000000012",
    ]
    assert len(list_checkpoints(tmp_path / "good")) == 1
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert run_training(tiny(runtime=runtime), tmp_path / "run", resume=True)["steps"] == 12
