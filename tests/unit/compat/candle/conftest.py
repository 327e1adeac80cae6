"""Settings of transformer_candle, and what is noted of them."""

import pytest

from candlewick.compat.candle.settings import CandleDialect
from candlewick.config.load import load_config


@pytest.fixture
def notes():
    return []


@pytest.fixture
def load(tmp_path, notes):
    def load(text, *overrides):
        (tmp_path / "old.yaml").write_text(text)
        return load_config(tmp_path / "old.yaml", overrides, notes.append, CandleDialect())

    return load
