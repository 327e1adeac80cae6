"""A short campaign of hostile text files; `make faults` is the long one."""

from tests.faults.texts import GOOD, run

COUNT = 150


def test_hostile_texts_give_documents_or_one_line_in_bounded_memory():
    outcomes = dict(run(0, COUNT))
    bad = {number: outcome for number, outcome in outcomes.items() if outcome.name not in GOOD}
    assert not bad
    assert {outcome.name for outcome in outcomes.values()} >= {"documents", "refused"}
