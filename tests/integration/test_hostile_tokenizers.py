"""A short campaign of hostile tokenizer files; `make faults` is the long one."""

from tests.faults.tokenizers import campaign


def test_hostile_tokenizer_files_are_read_or_refused_within_bounds():
    outcomes, broken = campaign(0, 200)
    assert not broken
    assert outcomes["read"] >= 20
    assert outcomes.total() == 200
