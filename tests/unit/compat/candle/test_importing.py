"""Importing a checkpoint of transformer_candle: the written run, and refusals before anything is written."""

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


@pytest.fixture
def import_run(tmp_path, config, folder, tokenizer):
    """Import a checkpoint of transformer_candle into `tmp_path / "run"`."""

    def run(config=config, source=folder, heads: int | None = 2, *, weights_only=False):
        return import_candle(source, config, tokenizer, tmp_path / "run", heads=heads, weights_only=weights_only)

    return run


def test_imported_run_records_its_origin(tmp_path, import_run):
    run, result = tmp_path / "run", import_run()
    assert (result.step, result.vocab_size, result.output) == (7, 320, run)
    manifest = read_manifest(find_checkpoints(run)[0])
    assert manifest.inputs.keys() == {"tokenizer", "parent"}
    saved = load_config(run)
    assert saved.model == result.model
    assert saved.tokenizer.tokenizer_json == run / "tokenizer"
    with pytest.raises(ConfigError, match="holds a run already"):
        import_run()


def test_import_of_optimizer_state_requires_adamw(tmp_path, import_run):
    with pytest.raises(ConfigError, match="AdamW's state, the settings say optimizer.algorithm=muon"):
        import_run(RunConfig())
    assert not (tmp_path / "run").exists()
    result = import_run(RunConfig(), weights_only=True)
    assert result.step is None


def test_tokenizer_with_more_tokens_than_vocabulary_rows_is_refused(tmp_path, import_run):
    small = Candle(200, 32, 1, 64, 2).write(tmp_path / "small")
    with pytest.raises(CheckpointError, match="the tokenizer has 300 tokens, the model .* has 200 rows"):
        import_run(source=small)


def test_settings_that_do_not_fit_the_model_are_refused(config, import_run):
    long = config.replaced(data={"sequence_length": 512}, model={"num_attention_heads": 2, "hidden_size": 32})
    long = long.model_copy(update={"model": long.model.replaced(max_position_embeddings=16)})  # no file says it
    with pytest.raises(ConfigError, match="the settings do not fit the model"):
        import_run(long, heads=None)


def test_fetch_candle_returns_a_local_folder_unchanged(tmp_path):
    assert fetch_candle(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("place", ["", "checkpoints", "best", "step_000000000007_global_000000000007"])
def test_config_and_tokenizer_are_found_in_the_run_folder_of_a_checkpoint(tmp_path, tokenizer, place):
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
