"""The seed's streaming_config.json beside a configuration turns into settings, and is told of."""

import json

import pytest

from candlewick.cli.streaming import beside
from candlewick.errors import ConfigError

WRITTEN = {"dataset": "me/text", "split": "train", "max_samples": 600_000, "stream_batch_size": 512}


@pytest.fixture
def config(tmp_path):
    """A configuration with the given content in a streaming_config.json beside it."""

    def write(content) -> str:
        (tmp_path / "run.yaml").write_text("{}\n")
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "streaming_config.json").write_text(text)
        return str(tmp_path / "run.yaml")

    return write


def test_the_file_of_the_seed_becomes_settings(config, capsys):
    assert beside(config(WRITTEN)) == [
        'data.train_shards=["hf://datasets/me/text"]',
        'data.hub_split="train"',
        "data.max_documents=600000",
        "data.validation_shards=[]",
    ]
    told = capsys.readouterr().err
    assert "streaming_config.json is read: data.train_shards=" in told
    assert "a part of that text is held out for validation; stream_batch_size changes nothing: " in told


def test_what_it_leaves_out_has_a_default(config, capsys):
    settings = beside(config({"dataset": "hf://datasets/me/text@abc", "max_samples": None}))
    assert settings[:3] == [
        'data.train_shards=["hf://datasets/me/text@abc"]',
        'data.hub_split="train"',
        "data.max_documents=null",
    ]
    assert capsys.readouterr().err.endswith("for validation\n")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not a JSON object"),
        ("[]", "is not a JSON object"),
        ({}, "should have a dataset"),
        ({"dataset": ""}, "should have a dataset"),
        ({**WRITTEN, "shuffle": 1}, "no keys but dataset, split, max_samples, stream_batch_size"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error(config, content, said):
    with pytest.raises(ConfigError, match=f"streaming_config.json.*{said}"):
        beside(config(content))


def test_a_profile_has_nothing_beside_it(config, tmp_path, monkeypatch):
    config(WRITTEN)
    monkeypatch.chdir(tmp_path)
    assert beside("demo") == []
    assert beside("") == []
    (tmp_path / "streaming_config.json").unlink()
    assert beside("run.yaml") == []
