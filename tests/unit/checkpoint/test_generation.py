"""Settings of generation are written for new models, and kept of others."""

import json

import pytest
from transformers import GenerationConfig

from candlewick.checkpoint.generation import generation_config, read_generation_config
from candlewick.config import SampleConfig
from candlewick.errors import CheckpointError


def test_generation_config_starts_and_ends_with_the_delimiter():
    config = generation_config([0], 1, range(0), {})
    assert (config["bos_token_id"], config["eos_token_id"]) == (0, 0)
    assert generation_config([3, 0], None, range(0), {"eos_token_id": 7})["eos_token_id"] == [3, 0]


def test_generation_config_never_draws_rows_without_a_token_and_has_no_length():
    assert generation_config([0], 1, range(300, 320), {})["suppress_tokens"] == list(range(300, 320))
    assert not {"suppress_tokens", "max_length"} & generation_config([0], 1, range(0), {}).keys()


def test_generation_samples_as_runs_do_by_default():
    theirs, ours = GenerationConfig(**generation_config([0], 1, range(0), {})), SampleConfig()
    assert (theirs.do_sample, theirs.temperature, theirs.top_k) == (True, ours.temperature, ours.top_k)


def test_generation_settings_of_another_model_are_read_and_written(tmp_path):
    theirs = GenerationConfig(
        do_sample=True,
        temperature=0.6,
        top_p=0.95,
        top_k=20,
        eos_token_id=[5, 9],
        suppress_tokens=[1],
        max_length=7,
    )
    theirs.save_pretrained(tmp_path)
    found = read_generation_config(tmp_path)
    assert found["eos_token_id"] == [5, 9]
    written = generation_config([5, 9, 0], 1, range(300, 301), found)
    (tmp_path / "generation_config.json").write_text(json.dumps(written))
    again = GenerationConfig.from_pretrained(tmp_path)
    for name in ("do_sample", "temperature", "top_p", "top_k"):
        assert getattr(again, name) == getattr(theirs, name)
    assert "max_length" not in written
    assert (again.eos_token_id, again.suppress_tokens, again.bos_token_id) == ([5, 9, 0], [300], 0)
    assert not {"transformers_version"} & written.keys()


def test_generation_settings_without_a_word_of_sampling_leave_ours():
    written = generation_config([0], 1, range(0), {"eos_token_id": 0, "max_new_tokens": 9})
    assert (written["temperature"], written["max_new_tokens"]) == (0.8, 9)
    assert "temperature" not in generation_config([0], 1, range(0), {"do_sample": False})


def test_generation_settings_that_cannot_be_kept_are_left_out_or_refused(tmp_path):
    assert read_generation_config(tmp_path) == {}
    file = tmp_path / "generation_config.json"
    file.write_text('{"temperature": NaN, "top_p": 1e999, "top_k": null, "x": {"y": 1}, "min_p": 0.5}')
    assert read_generation_config(tmp_path) == {"min_p": 0.5, "eos_token_id": None}
    for content in ("[]", "{", '{"top_k": ' + "9" * 100 + "}"):
        file.write_text(content)
        with pytest.raises(CheckpointError, match=r"generation_config\.json (is not a|cannot be read)"):
            read_generation_config(tmp_path)
