"""A short campaign of kills and network faults over preparation; `make faults` is the long one."""

import pytest
from tests.faults.preparation import scenario

COUNT = 20


@pytest.mark.parametrize("number", range(COUNT))
def test_preparation_under_faults_writes_the_dataset_of_an_undisturbed_one(number, tmp_path):
    assert scenario(number, tmp_path)
