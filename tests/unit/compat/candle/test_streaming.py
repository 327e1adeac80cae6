"""A streaming_config.json beside a configuration is read, or refused in one line."""

import json
from pathlib import Path

import pytest

from candlewick.compat.candle.streaming import StreamingConfig, find_streaming_config
from candlewick.errors import ConfigError

WRITTEN = {"dataset": "me/text", "split": "train", "max_samples": 600_000, "stream_batch_size": 512}


@pytest.fixture
def config(tmp_path):
    """A configuration with the given content in a streaming_config.json beside it."""

    def write(content) -> Path:
        (tmp_path / "run.yaml").write_text("{}\n")
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "streaming_config.json").write_text(text)
        return tmp_path / "run.yaml"

    return write


def test_every_key_is_read_and_what_is_left_out_has_a_default(config, tmp_path):
    path = tmp_path / "streaming_config.json"
    assert find_streaming_config(config(WRITTEN)) == StreamingConfig(path, "me/text", "train", 600_000, 512)
    assert find_streaming_config(config({"dataset": "a/b", "split": None})) == StreamingConfig(path, "a/b")


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
        find_streaming_config(config(content))


def test_a_profile_has_nothing_beside_it(config, tmp_path, monkeypatch):
    config(WRITTEN)
    monkeypatch.chdir(tmp_path)
    assert find_streaming_config(Path("demo")) is None
    assert find_streaming_config(Path()) is None
    (tmp_path / "streaming_config.json").unlink()
    assert find_streaming_config(Path("run.yaml")) is None
