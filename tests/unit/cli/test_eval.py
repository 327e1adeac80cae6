import json

import pytest


@pytest.fixture
def evaluate(trained, run_candlewick):
    """Evaluate a trained run; return what is printed."""
    return lambda *words: run_candlewick("eval", trained, *words).out


def test_eval_prints_named_figures(evaluate):
    names = [line.split()[0] for line in evaluate().splitlines()]
    assert names == ["loss", "perplexity", "accuracy", "bits_per_byte", "tokens"]


def test_eval_json_has_the_result(evaluate):
    whole, part = (json.loads(evaluate("--json", *words)) for words in ((), ("--max-tokens", 128)))
    assert whole["eval/tokens"] > part["eval/tokens"] == 4 * 32


def test_eval_reads_all_of_several_text_files(evaluate, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "a.txt").write_text("one, two, " * 50)
    (tmp_path / "b.txt").write_text("three, four, " * 50)
    both = json.loads(evaluate("--json", tmp_path / "a.txt", tmp_path / "b.txt"))
    first = json.loads(evaluate("--json", tmp_path / "a.txt"))
    assert both["eval/tokens"] > first["eval/tokens"] > 100
    assert list((tmp_path / "cache").rglob("manifest.json"))


def test_eval_prints_the_floor_of_stories(evaluate, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    figures = json.loads(evaluate("--json", "stories://9@2"))
    assert figures["eval/above_floor"] == figures["eval/bits_per_byte"] - figures["eval/floor"]
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in evaluate("stories://9@2").splitlines()}
    floor = f"{figures['eval/floor']:.4f}"
    assert lines["floor"] == f"{floor}  (the least that any model can reach on these documents)"
    assert lines["above_floor"] == f"{figures['eval/above_floor']:.4f}"


@pytest.mark.parametrize("number", ["0", "-1", "many"])
def test_eval_refuses_max_tokens_below_one(trained, run_candlewick, number):
    assert "--max-tokens" in run_candlewick("eval", trained, "--max-tokens", number, code=2).err
