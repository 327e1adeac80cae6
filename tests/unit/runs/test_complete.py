import shutil

import pytest
import torch
from tests.prepared import open_data, prepare

from candlewick.checkpoint.load import load_for_inference
from candlewick.errors import ConfigError
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
    assert make_sampler(tiny(runtime={"sample": None}), tokenizer) is None
    config = tiny(runtime={"seed": 3, "sample": {"prompts": ["", "The "], "max_new_tokens": 5}})
    sampler = make_sampler(config, tokenizer)
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
