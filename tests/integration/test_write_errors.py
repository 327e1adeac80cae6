"""A short campaign of calls that fail once in a training run; `make faults` makes each call fail in each way."""

import random

import pytest
from tests.faults.write_errors import Campaign

COUNT = 40


@pytest.fixture(scope="module")
def campaign(tmp_path_factory) -> Campaign:
    return Campaign(tmp_path_factory.mktemp("write-errors"))


@pytest.mark.parametrize("number", range(COUNT))
def test_run_of_which_a_call_fails_once_ends_like_an_undisturbed_one(campaign, number, tmp_path):
    pair = random.Random(number).choice(campaign.pairs())
    assert campaign.scenario(*pair, tmp_path)
