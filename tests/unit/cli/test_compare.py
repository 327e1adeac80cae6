import json
import shutil

import pytest

from candlewick.train.monitor.trackers import read_metrics


@pytest.fixture
def other(trained, tmp_path):
    """The trained run, with other losses after step 6 and another seed."""
    folder = tmp_path / "other"
    folder.mkdir()
    shutil.copy(trained / "config.yaml", folder)
    rows = read_metrics(trained / "metrics.jsonl")
    for row in rows:
        if row["step"] > 6 and "train/loss" in row:
            row["train/loss"] += 0.5
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = (folder / "config.yaml").read_text().partition("\n")[2]  # without its seal
    (folder / "config.yaml").write_text(config.replace("seed: 42", "seed: 43"))
    return folder


@pytest.fixture
def compare(run_candlewick):
    """Compare two runs; return what is printed."""
    return lambda *words: run_candlewick("compare", *words).out


def test_compare_of_a_run_with_itself_says_equal(trained, compare):
    out = compare(trained, trained)
    assert "all settings are the same" in out
    assert "equal to the bit to the end, step 12" in out


def test_compare_shows_settings_losses_and_the_first_difference(trained, other, compare):
    out = compare(trained, other)
    (setting,) = (line.split() for line in out.splitlines() if "runtime.seed" in line)
    assert setting == ["runtime.seed", "42", "43"]
    assert "differ from step 7 on" in out
    for name in ("step 12", "eval/loss", "eval/bits_per_byte", "eval/tokens", "tokens_per_second", "memory_bytes"):
        assert name in out
    assert f"* {trained}   + {other}" in out


def test_compare_json_has_the_result(trained, other, compare):
    result = json.loads(compare(trained, other, "--json"))
    assert result["settings"] == {"runtime.seed": {"first": 42, "second": 43}}
    assert result["first_different_step"] == 7


def test_compare_of_runs_without_a_common_step_says_so(trained, tmp_path, compare):
    shutil.copy(trained / "config.yaml", tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    assert "no step of both runs is recorded" in compare(trained, tmp_path)
