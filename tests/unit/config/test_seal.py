"""A run's config.yaml names its run, and is refused when it was changed."""

import os
import random

import pytest

from candlewick.config import RunConfig
from candlewick.config.load import load_config
from candlewick.config.seal import read_run_id, seal
from candlewick.config.tree import dump
from candlewick.errors import ConfigError

RUN = "0123456789ab"


@pytest.fixture
def path(tmp_path):
    """The config.yaml of a run."""
    path = tmp_path / "config.yaml"
    path.write_text(seal(dump(RunConfig(), "yaml"), RUN))
    return path


def test_sealed_configuration_is_read_and_names_its_run(path):
    assert load_config(path) == load_config(path.parent) == RunConfig()
    assert read_run_id(path) == RUN


def test_configuration_without_a_seal_or_a_file_has_no_run(tmp_path):
    (tmp_path / "mine.yaml").write_text("data: {micro_batch_size: 2}\n")
    assert read_run_id(tmp_path / "mine.yaml") is None
    assert read_run_id(tmp_path / "none.yaml") is None
    os.mkfifo(tmp_path / "pipe.yaml")
    assert read_run_id(tmp_path / "pipe.yaml") is None


def test_edited_configuration_of_a_run_is_refused_until_its_first_line_is_gone(path):
    edited = path.read_text().replace("seed: 42", "seed: 43")
    path.write_text(edited)
    with pytest.raises(ConfigError, match=r"config\.yaml was changed since its run wrote it.*--override"):
        load_config(path)
    path.write_text(edited.partition("\n")[2])
    assert load_config(path).runtime.seed == 43


def test_flipped_bits_of_a_run_configuration_are_refused_or_change_nothing(path):
    """400 flips, one at a time, all over the file."""
    good, choose = path.read_bytes(), random.Random(3)
    for _ in range(400):
        content = bytearray(good)
        content[choose.randrange(len(good))] ^= 1 << choose.randrange(8)
        path.write_bytes(content)
        try:
            config = load_config(path)
        except ConfigError:
            continue
        assert config == RunConfig()
