import json

import numpy as np
import pytest

from candlewick.config import RunConfig
from candlewick.config.tree import dump
from candlewick.errors import ConfigError, DataError
from candlewick.runs.report.compare import compare_runs


@pytest.fixture
def run(tmp_path):
    """Write a run folder: `run(name, rows, optimizer=...)`."""

    def write(name, rows, **sections):
        folder = tmp_path / name
        folder.mkdir()
        config = RunConfig.model_validate_json(json.dumps(sections))
        (folder / "config.yaml").write_text(dump(config, "yaml"))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return write


def row(step, loss, tokens_per_step=100, **figures):
    tokens = float(step * tokens_per_step)
    more = {"perf/training_seconds": step * 0.5, "perf/mfu_strict": 0.4, "perf/memory_bytes": 1e9 + step}
    return {"step": step, "train/loss": loss, "data/tokens": tokens, **more, **figures}


def test_compare_runs_lists_different_settings_with_both_values(run):
    first = run("a", [row(1, 1.0)], optimizer={"learning_rate": 0.01})
    second = run("b", [row(1, 1.0)], optimizer={"algorithm": "lion"}, runtime={"seed": 1})
    settings = compare_runs(first, second)["settings"]
    assert settings["runtime.seed"] == {"first": 42, "second": 1}
    assert settings["optimizer.learning_rate"] == {"first": 0.01, "second": 1e-4}
    assert settings["optimizer.epsilon"] == {"first": 1e-8}
    assert not any(key.startswith("model.") for key in settings)


def test_compare_runs_averages_losses_over_the_same_tokens(run):
    losses = np.random.default_rng(0).random((2, 400)) + 1
    one = [row(step, losses[0, step - 1], 100) for step in range(1, 401)]
    other = [row(step, losses[1, step - 1], 200) for step in range(1, 401)]
    result = compare_runs(run("a", one), run("b", other))
    assert result["smoothed_over_tokens"] == 2000
    assert len(result["training_loss"]) == 8
    assert {1, 400} < result["training_loss"].keys()
    for step, (first, second) in result["training_loss"].items():
        assert first == pytest.approx(losses[0, max(0, step - 20) : step].mean())
        assert second == pytest.approx(losses[1, max(0, step - 10) : step].mean())
    assert result["curves"][0][-1] == (400, result["training_loss"][400][0])


def test_compare_runs_finds_the_first_different_step(run):
    first = run("a", [row(step, 1 / step) for step in (10, 20, 30, 40)])
    same = run("b", [row(step, 1 / step) for step in (5, 10, 20, 30)])
    other = run("c", [row(step, np.nextafter(1 / step, 1) if step > 10 else 1 / step) for step in (10, 20, 30)])
    result = compare_runs(first, same)
    assert (result["first_different_step"], result["last_common_step"]) == (None, 30)
    assert compare_runs(first, other)["first_different_step"] == 20


def test_compare_runs_takes_the_last_validation_and_speed_figures(run):
    rows = [
        row(1, 2.0),
        {"step": 1, "eval/loss": 3.0},
        row(2, 1.5),
        {"step": 2, "eval/loss": 2.5, "eval/bits_per_byte": 0.5, "eval/tokens": 8, "eval/code/loss": 1.0},
    ]
    result = compare_runs(run("a", rows), run("b", [row(2, 1.0, 300)]))
    assert result["validation"] == {
        "eval/bits_per_byte": [0.5, None],
        "eval/code/loss": [1.0, None],
        "eval/loss": [2.5, None],
        "eval/tokens": [8, None],
    }
    assert result["figures"] == {
        "tokens": [200, 600],
        "training_seconds": [1.0, 1.0],
        "tokens_per_second": [200, 600],
        "mfu_strict": [0.4, 0.4],
        "memory_bytes": [1e9 + 2, 1e9 + 2],
    }


def test_compare_runs_skips_damaged_lines_and_non_finite_losses(run):
    first = run("a", [row(1, 2.0), row(2, None), row(3, "x"), row(4, 1.0)])
    with (first / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "train/lo')
    result = compare_runs(first, run("b", [row(1, 2.0), row(2, None), row(4, 1.0)]))
    assert result["first_different_step"] is None
    assert result["last_common_step"] == 4
    assert [step for step, _ in result["curves"][0]] == [1, 4]


def test_compare_runs_of_an_empty_run_has_no_figures(run):
    result = compare_runs(run("a", []), run("b", [{"step": 1, "eval/loss": 2.0}]))
    assert result["training_loss"] == {}
    assert result["last_common_step"] is None
    assert result["figures"]["mfu_strict"] == [None, None]
    assert result["figures"]["tokens_per_second"] == [None, None]


def test_compare_runs_refuses_a_folder_without_a_run(run, tmp_path):
    first = run("a", [])
    with pytest.raises(ConfigError, match="nowhere"):
        compare_runs(first, tmp_path / "nowhere")
    (first / "metrics.jsonl").unlink()
    with pytest.raises(DataError, match=r"metrics.jsonl is missing"):
        compare_runs(first, first)
