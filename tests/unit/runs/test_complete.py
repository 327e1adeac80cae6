import shutil

import pytest
import torch
from tests.corpora import jsonl
from tests.prepared import open_data, plan_run, prepare

from candlewick.checkpoint.load import load_for_inference
from candlewick.errors import ConfigError, DataError
from candlewick.generate.engine import sample_text
from candlewick.runs.complete import make_sampler
from candlewick.runs.train import run_training


def with_data(tiny, **settings):
    """`tiny()` with other data settings."""
    return tiny(data={**tiny().data.model_dump(mode="json"), **settings})


def test_validation_may_be_separate_text_or_tokens(tiny, tokens, text_dir):
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


def test_token_dataset_of_another_folder_serves_as_validation(tiny, tokens, text_dir, tmp_path):
    copy = shutil.copytree(tokens, tmp_path / "copy")
    tokenizer = {"tokenizer_json": str(tokens / "tokenizer")}
    text = {**tiny().data.model_dump(mode="json"), "train_shards": [str(text_dir / "00.txt")]}
    other = prepare(tiny(data=text, tokenizer=tokenizer)).config.data.prepared["tokens"]
    for folder, side in ((copy, "validation"), (other, "train")):
        data = open_data(with_data(tiny, train_shards=[str(tokens)], validation_shards=[str(folder)]))
        assert data.validation.name == side


def test_sampler_follows_the_sample_settings(tiny, trained):
    model, tokenizer = load_for_inference(trained, torch.device("cpu"))
    assert make_sampler(tiny(runtime={"sample": None}), tokenizer, ()) is None
    config = tiny(runtime={"seed": 3, "sample": {"prompts": ["", "The "], "max_new_tokens": 5}})
    sampler = make_sampler(config, tokenizer, ("", "The "))
    assert sampler is not None
    found = sampler(model)
    assert found == [
        (prompt, sample_text(model, tokenizer, prompt, config.runtime.sample, seed=3)) for prompt in ("", "The ")
    ]


def test_prompt_that_is_too_long_is_refused_before_training(tiny, tmp_path):
    config = tiny(runtime={"sample": {"prompts": ["", "x" * 32]}})
    with pytest.raises(ConfigError, match=r"the prompt 'x+' of runtime\.sample has 33 tokens, the model reads 32"):
        run_training(config, tmp_path / "run", resume=False)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_text_of_fewer_tokens_than_a_row_is_refused(tiny, tmp_path):
    (tmp_path / "a.txt").write_text("so few words\nare no text to train on")
    config = tiny(data={"train_shards": [str(tmp_path / "a.txt")], "validation_fraction": 0.3})
    with pytest.raises(DataError, match=r"tokens has \d+ tokens to train on, a row has 32"):
        plan_run(config)


def test_warm_up_that_does_not_end_and_text_read_too_often_are_told(tiny, text_dir, caplog):
    plan_run(tiny(scheduler={"total_steps": 12, "warmup_steps": 2}))
    assert not caplog.messages
    plan_run(tiny(scheduler={"total_steps": 12, "warmup_steps": 40}))
    assert "scheduler.warmup_steps=40 is longer than the run of 12 updates" in caplog.text
    assert "the learning rate reaches 0.2 of its peak" in caplog.text
    caplog.clear()
    plan_run(tiny(scheduler={"total_steps": 400_000, "warmup_steps": 2}))
    (message,) = caplog.messages
    assert "a model learns so small a text by heart" in message


def test_budget_of_text_that_is_read_more_than_once_is_told(tiny, text_dir, tmp_path, caplog):
    settings = {"max_tokens": 3000, "shard_text_bytes": 1 << 16, "validation_shards": [str(text_dir / "00.txt")]}
    config = tiny(data={"train_shards": [str(text_dir)], "cache_dir": str(tmp_path / "cache"), **settings})
    plan_run(config)
    assert "tokens has the first" not in caplog.text
    longer = config.replaced(scheduler={"total_steps": 900, "warmup_steps": 2})
    plan_run(longer)
    assert "tokens has the first " in caplog.text
    assert "a larger data.max_tokens reads more of it" in caplog.text


def test_copies_of_validation_documents_are_told(tiny, tmp_path, caplog):
    rows = [f"document {number} with a few words more than its number" for number in range(40)]
    for name, texts in {
        "train": rows,
        "validation": [*rows[:3], "an own document of the validation text"],
    }.items():
        (tmp_path / f"{name}.jsonl").write_bytes(jsonl(texts))
    shards = {f"{name}_shards": [str(tmp_path / f"{name}.jsonl")] for name in ("train", "validation")}
    plan_run(tiny(data={**shards, "cache_dir": str(tmp_path / "cache")}))
    assert "of 4 validation documents 3 are trained on too, 0 nearly" in caplog.text
    caplog.clear()
    shards["validation_shards"] = shards["train_shards"]
    plan_run(tiny(data={**shards, "cache_dir": str(tmp_path / "cache")}))
    assert "trained on too" in caplog.text
