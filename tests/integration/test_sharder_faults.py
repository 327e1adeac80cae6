"""A short campaign of network faults and kills over the sharder; `make faults` is the long one."""

import pytest
from tests.faults.sharder import scenario

COUNT = 50


@pytest.mark.parametrize("number", range(COUNT))
def test_sharder_under_faults_writes_the_shards_of_a_clean_download(number, tmp_path):
    assert scenario(number, tmp_path)
