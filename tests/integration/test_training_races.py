"""A few races of two training runs into one folder; `make faults` has 50 rounds."""

import pytest
from tests.faults.races import SHARED, Race, run_alone
from tests.faults.training import Corpus

ROUNDS = 2


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return Corpus.write(tmp_path_factory.mktemp("races") / "corpus")


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory):
    return run_alone(corpus, tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("shared", SHARED)
def test_two_runs_in_one_folder_have_one_winner_and_with_one_cache_both_end(
    shared, number, corpus, alone, tmp_path
):
    Race(shared, corpus, alone, tmp_path).run()
