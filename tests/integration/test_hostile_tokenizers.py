"""A short campaign of hostile tokenizer files; `make faults` is the long one."""

from tests.faults.tokenizers import GOOD, run


def test_hostile_tokenizer_files_are_read_or_refused_within_bounds():
    outcomes = dict(run(0, 200))
    assert not {seed: outcome for seed, outcome in outcomes.items() if outcome not in GOOD}
    assert list(outcomes.values()).count("read") >= 20
    assert len(outcomes) == 200
