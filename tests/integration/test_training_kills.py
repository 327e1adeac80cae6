"""A short campaign of kills over training; `make faults` is the long one."""

import pytest
from tests.faults.kills import CONFIGURATIONS, Run
from tests.faults.training import Corpus

KILLS = 5
"""Of each configuration."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return Corpus.write(tmp_path_factory.mktemp("kills") / "corpus")


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_run_that_is_killed_again_and_again_ends_like_an_undisturbed_one(name, corpus, tmp_path):
    (place := tmp_path / "undisturbed").mkdir()
    run = Run.undisturbed(name, corpus, place)
    kills = runs = 0
    while kills < KILLS:
        (folder := tmp_path / str(runs)).mkdir()
        kills += run.scenario(runs, KILLS - kills, folder)["kills"]
        runs += 1
