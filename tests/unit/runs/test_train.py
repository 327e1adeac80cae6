import shutil

import pytest
import torch
from tests.prepared import open_data, prepare

from candlewick.checkpoint.layout import list_checkpoints
from candlewick.checkpoint.load import load_for_inference
from candlewick.config.load import load_config
from candlewick.errors import CheckpointError, ConfigError, DataError
from candlewick.generate.engine import sample_text
from candlewick.runs.train import make_sampler, run_training


def with_data(tiny, **settings):
    """`tiny()` with other data settings."""
    return tiny(data={**tiny().data.model_dump(mode="json"), **settings})


def test_text_is_prepared_once(tiny, cache):
    first = prepare(tiny())
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    second = prepare(tiny())
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()} == before
    assert first.datasets["tokens"].id == second.datasets["tokens"].id
    assert first.tokenizer.vocab_size == 300
    data = open_data(tiny())
    assert (data.train[0].name, data.validation.name) == ("train", "validation")


def test_a_token_dataset_brings_its_tokenizer(tiny, tokens):
    text, data = prepare(tiny()), prepare(with_data(tiny, train_shards=[str(tokens)], cache_dir=None))
    assert data.datasets["tokens"].id == text.datasets["tokens"].id
    assert data.tokenizer.sha256 == text.tokenizer.sha256


def test_another_tokenizer_makes_other_tokens(tiny, tokens, tokenizer, tmp_path):
    (tmp_path / "tokenizer").mkdir()
    tokenizer.write(tmp_path / "tokenizer")
    shutil.copy(tmp_path / "tokenizer" / "tokenizer.json", tmp_path / "mine.json")
    folder, file = (
        prepare(tiny(tokenizer={"tokenizer_json": str(tmp_path / name)})) for name in ("tokenizer", "mine.json")
    )
    assert folder.tokenizer.sha256 == file.tokenizer.sha256 == tokenizer.sha256
    ids = [found.datasets["tokens"].id for found in (folder, file, prepare(tiny()))]
    assert ids[0] == ids[1] != ids[2]
    config = tiny(tokenizer={"tokenizer_json": str(tmp_path / "tokenizer")}, data={"train_shards": [str(tokens)]})
    with pytest.raises(DataError, match="was prepared with tokenizer"):
        open_data(config)


def test_validation_may_be_text_or_tokens_of_its_own(tiny, tokens, text_dir):
    first = str(text_dir / "00.txt")
    text = open_data(with_data(tiny, validation_shards=[first]))
    assert text.validation.num_bytes == len((text_dir / "00.txt").read_bytes())
    whole = open_data(with_data(tiny, train_shards=[str(tokens)]))
    itself = open_data(with_data(tiny, train_shards=[str(tokens)], validation_shards=[str(tokens)]))
    assert itself.validation.num_tokens == whole.validation.num_tokens < whole.train[0].num_tokens
    both = open_data(with_data(tiny, train_shards=[str(tokens)], validation_shards=[first]))
    assert both.validation.num_bytes == text.validation.num_bytes
    assert both.train[0].num_tokens == whole.train[0].num_tokens
    assert text.train[0].num_bytes == whole.train[0].num_bytes + whole.validation.num_bytes


def test_tokens_made_elsewhere_serve_as_validation(tiny, tokens, text_dir, tmp_path):
    copy = shutil.copytree(tokens, tmp_path / "copy")
    tokenizer = {"tokenizer_json": str(tokens / "tokenizer")}
    text = {**tiny().data.model_dump(mode="json"), "train_shards": [str(text_dir / "00.txt")]}
    other = prepare(tiny(data=text, tokenizer=tokenizer)).config.data.train_shards[0]
    for folder, side in ((copy, "validation"), (other, "train")):
        data = open_data(with_data(tiny, train_shards=[str(tokens)], validation_shards=[str(folder)]))
        assert data.validation.name == side


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"train_shards": []}, "no text to train on"),
        ({"cache_dir": None}, "no folder to keep prepared text in"),
        ({"train_shards": ["TOKENS", "TEXT"]}, "cannot stand beside other sources"),
    ],
)
def test_data_that_cannot_be(tiny, tokens, text_dir, settings, said):
    names = {"TOKENS": str(tokens), "TEXT": str(text_dir)}
    settings = {key: value and [names[name] for name in value] for key, value in settings.items()}
    with pytest.raises(ConfigError, match=said):
        open_data(with_data(tiny, **settings))


def test_a_run_leaves_all_that_is_known_about_it(tiny, trained):
    assert sorted(path.name for path in trained.iterdir()) == [
        *("LOCK", "best", "checkpoints", "config.yaml", "log.txt", "metrics.jsonl")
    ]
    assert load_config(trained / "config.yaml") == prepare(tiny()).config
    assert [folder.name for folder in list_checkpoints(trained / "checkpoints")] == [
        f"step_{step:09}" for step in (5, 10, 12)
    ]
    assert len(list_checkpoints(trained / "best")) == 1


def test_the_result_says_what_was_done(tiny, tmp_path):
    result = run_training(tiny(), tmp_path / "run", resume=False)
    metrics = result.pop("metrics")
    assert result.pop("train_seconds") > 0
    assert result == {"steps": 12, "tokens": 12 * 4 * 32, "skipped_steps": 0}
    assert 0 < metrics["eval/bits_per_byte"] < 8


def test_resuming_a_finished_run_changes_nothing(tiny, trained_copy):
    before = (trained_copy / "metrics.jsonl").read_bytes()
    result = run_training(tiny(), trained_copy, resume=True)
    assert result["steps"] == 12
    assert (trained_copy / "metrics.jsonl").read_bytes() == before


def test_a_run_is_not_trained_over(tiny, trained_copy):
    with pytest.raises(ConfigError, match="holds a run already .*--resume"):
        run_training(tiny(), trained_copy, resume=False)


def test_settings_that_do_not_fit_the_run_leave_its_own_in_place(tiny, trained_copy):
    before = (trained_copy / "config.yaml").read_bytes()
    with pytest.raises(CheckpointError):
        run_training(tiny(optimizer={"algorithm": "adam_w"}), trained_copy, resume=True)
    assert (trained_copy / "config.yaml").read_bytes() == before


def test_settings_that_cannot_be_are_told_before_text_is_prepared(tiny, tmp_path):
    own = {"cache_dir": str(tmp_path / "cache"), "global_batch_size": 6}
    with pytest.raises(ConfigError, match="6 is not a multiple of"):
        run_training(with_data(tiny, **own), tmp_path / "run", resume=False)
    assert not (tmp_path / "cache").exists()


def test_samples_are_written_as_settings_say(tiny, trained):
    model, tokenizer = load_for_inference(trained, torch.device("cpu"))
    assert make_sampler(tiny(runtime={"sample": None}), tokenizer) is None
    config = tiny(runtime={"seed": 3, "sample": {"prompts": ["", "The "], "max_new_tokens": 5}})
    sampler = make_sampler(config, tokenizer)
    assert sampler is not None
    found = sampler(model)
    assert found == [
        (prompt, sample_text(model, tokenizer, prompt, config.runtime.sample, seed=3)) for prompt in ("", "The ")
    ]


def test_a_prompt_that_is_too_long_is_told_before_training(tiny, tmp_path):
    config = tiny(runtime={"sample": {"prompts": ["", "x" * 32]}})
    with pytest.raises(ConfigError, match=r"the prompt 'x+' of runtime\.sample has 33 tokens, the model reads 32"):
        run_training(config, tmp_path / "run", resume=False)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
