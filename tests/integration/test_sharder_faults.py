"""The short form of the campaign over the sharder; `make faults` is the long one."""

import pytest
from tests.faults.sharder import scenario

COUNT = 50


@pytest.mark.parametrize("number", range(COUNT))
def test_shards_are_those_of_a_clean_download(number, tmp_path):
    assert scenario(number, tmp_path, real_kills=number % 25 == 24) in ("killed", "undisturbed", "refused")
