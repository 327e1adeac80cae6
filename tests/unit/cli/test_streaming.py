"""A dataset of the Hub is named by a few settings."""

import pytest

from candlewick.cli.streaming import stream_settings
from candlewick.config.load import load_config


@pytest.mark.parametrize("dataset", ["me/text@abc", "hf://datasets/me/text@abc"])
def test_the_settings_name_the_dataset_its_split_and_how_much_of_it(dataset):
    data = load_config("orchestrate", stream_settings(dataset, "test", 600_000)).data
    assert data.train_shards == ("hf://datasets/me/text@abc",)
    assert (data.hub_split, data.max_documents) == ("test", 600_000)
    assert load_config("orchestrate", stream_settings(dataset, "test", None)).data.max_documents is None
