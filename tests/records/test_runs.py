"""Comparing records of runs detects one changed bit; the committed record is complete."""

import copy
import json
from pathlib import Path

from tests.records import runs

RECORD = Path(__file__).with_name("feef26f.json")


def test_differences_name_one_changed_bit_of_a_loss():
    before = json.loads(RECORD.read_bytes())["runs"]
    now = copy.deepcopy(before)
    assert runs.differences(before, now) == []
    now["chat"]["losses"][3] += 2**-40
    assert [line.partition(":")[0] for line in runs.differences(before, now)] == ["chat"]


def test_differences_name_a_run_that_is_missing():
    before = json.loads(RECORD.read_bytes())["runs"]
    now = {name: run for name, run in before.items() if name != "chat"}
    assert runs.differences(before, now) == ["chat: only one side has this run"]


def test_record_holds_all_updates_of_every_case(tmp_path):
    recorded = json.loads(RECORD.read_bytes())["runs"]
    assert list(recorded) == [name for name, _ in runs.cases(tmp_path)]
    for name, run in recorded.items():
        assert len(run["losses"]) == run["step"], name
        assert run["step"] == runs.STEPS or name == "epochs"


def test_corpus_has_the_same_bytes_every_time(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        runs.write_corpus(tmp_path / name)
    first, second = (
        sorted(path for path in (tmp_path / n).rglob("*") if path.is_file()) for n in ("first", "second")
    )
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
