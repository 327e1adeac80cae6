"""The short form of the campaign; `python -m tests.fuzz.configs` is the long one."""

from collections import Counter

from tests.fuzz.generator import configuration
from tests.fuzz.workbench import Defect, Workbench

COUNT = 200


def test_every_random_configuration_runs_or_is_refused_in_one_line(tmp_path):
    bench = Workbench(tmp_path)
    outcomes: Counter[str] = Counter()
    for number in range(COUNT):
        suffix, text = configuration(number)
        try:
            outcomes[bench.attempt(suffix, text)] += 1
        except Defect as defect:
            raise AssertionError(f"number {number}, {suffix}:\n{text}\n{defect}") from None
    print(dict(outcomes))
    assert outcomes["ran"] >= 0.3 * COUNT
    assert outcomes["refused"] >= 0.2 * COUNT
    assert outcomes["capped"] <= 0.02 * COUNT


def test_a_configuration_is_a_function_of_its_number():
    assert configuration(7) == configuration(7)
    assert len({configuration(number) for number in range(50)}) == 50
