"""Importing: what is written, and what is refused before anything is."""

import pytest
from tests.candle import Candle

from candlewick.artifacts.manifest import read_manifest
from candlewick.checkpoint.layout import find_checkpoints
from candlewick.compat.candle.importing import fetch_candle, find_config, find_tokenizer, import_candle
from candlewick.config import AdamWConfig, RunConfig
from candlewick.config.load import load_config
from candlewick.errors import CheckpointError, ConfigError


@pytest.fixture
def config():
    return RunConfig(optimizer=AdamWConfig())


@pytest.fixture
def folder(tmp_path):
    return Candle(320, 32, 1, 64, 2).write(tmp_path / "candle")


def test_the_run_says_where_it_came_from(tmp_path, folder, config, tokenizer):
    run = tmp_path / "run"
    result = import_candle(folder, config, tokenizer, run, heads=2, weights_only=False)
    assert (result.step, result.vocab_size, result.output) == (7, 320, run)
    manifest = read_manifest(find_checkpoints(run)[0])
    assert manifest.inputs.keys() == {"tokenizer", "parent"}
    saved = load_config(run)
    assert saved.model == result.model
    assert saved.tokenizer.tokenizer_json == run / "tokenizer"
    with pytest.raises(ConfigError, match="holds a run already"):
        import_candle(folder, config, tokenizer, run, heads=2, weights_only=False)


def test_the_optimizer_has_to_be_adamw(tmp_path, folder, tokenizer):
    with pytest.raises(ConfigError, match="AdamW's state, the settings say optimizer.algorithm=muon"):
        import_candle(folder, RunConfig(), tokenizer, tmp_path / "run", heads=2, weights_only=False)
    assert not (tmp_path / "run").exists()
    result = import_candle(folder, RunConfig(), tokenizer, tmp_path / "run", heads=2, weights_only=True)
    assert result.step is None


def test_a_tokenizer_with_more_tokens_than_rows(tmp_path, config, tokenizer):
    small = Candle(200, 32, 1, 64, 2).write(tmp_path / "candle")
    with pytest.raises(CheckpointError, match="the tokenizer has 300 tokens, the model .* has 200 rows"):
        import_candle(small, config, tokenizer, tmp_path / "run", heads=2, weights_only=False)


def test_settings_that_do_not_fit_the_model(tmp_path, folder, tokenizer):
    config = RunConfig.model_validate(
        {"data": {"sequence_length": 512}, "model": {"num_attention_heads": 2, "hidden_size": 32}}
    ).model_copy(update={"optimizer": AdamWConfig()})
    config = config.model_copy(update={"model": config.model.model_copy(update={"max_position_embeddings": 16})})
    with pytest.raises(ConfigError, match="the settings do not fit the model"):
        import_candle(folder, config, tokenizer, tmp_path / "run", heads=None, weights_only=False)


def test_a_local_folder_is_taken_as_it_is(tmp_path):
    assert fetch_candle(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("place", ["", "checkpoints", "best", "step_000000000007_global_000000000007"])
def test_config_and_tokenizer_of_the_run_around_a_checkpoint(tmp_path, tokenizer, place):
    folder = tmp_path / "run" / ("checkpoints" if place.startswith("step_") else "") / place
    folder.mkdir(parents=True)
    assert find_config(folder) is None
    with pytest.raises(ConfigError, match="no tokenizer is named, and none lies in"):
        find_tokenizer(None, folder, None)
    (tmp_path / "run" / "training.toml").touch()
    assert find_config(folder) == tmp_path / "run" / "training.toml"
    (tmp_path / "run" / "tokenizer").mkdir()
    tokenizer.write(tmp_path / "run" / "tokenizer")
    assert find_tokenizer(RunConfig(), folder, None).sha256 == tokenizer.sha256
