"""The loop that the campaigns of `tests/faults` share."""

from collections import Counter

import pytest
from tests.faults.campaign import numbered, run_campaign


@pytest.mark.parametrize(
    ("law", "code", "last"), [(100, 0, "7 fine"), (9, 1, "2 failed, 5 fine"), (0, 1, "20 failed")]
)
def test_campaign_counts_outcomes_and_exits_with_1_when_a_scenario_fails(law, code, last, monkeypatch, capsys):
    def scenario(number, folder):
        assert not list(folder.iterdir())
        (folder / "text").write_text("")
        assert number % 10 < law - 1, f"law {law}"
        return Counter(fine=1)

    monkeypatch.setattr("sys.argv", ["campaign", "--seed", "14", *([] if law == 0 else ["--count", "7"])])
    with pytest.raises(SystemExit) as exited:
        run_campaign("about", numbered(scenario), 100, "scenarios", seed="first")
    out = capsys.readouterr().out
    assert exited.value.code == code
    assert out.split("\r")[-1].startswith(f"{last}; ")
    assert (f"scenario 18: law {law}\n" in out) == (law < 100)
