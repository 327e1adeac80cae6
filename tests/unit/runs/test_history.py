import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlewick.config import RunConfig
from candlewick.errors import DataError
from candlewick.runs.history import (
    Curve,
    RunHistory,
    RunRecord,
    planned_end,
    read_figures,
    read_record,
    read_state,
)

NAN = float("nan")


def curve(values, steps=None):
    return Curve(np.array(range(len(values)) if steps is None else steps, float), np.array(values, float))


@given(st.lists(st.floats(-1e6, 1e6) | st.just(NAN), max_size=300), st.integers(6, 60))
def test_thinned_curve_keeps_ends_and_extremes_of_its_range(values, most):
    whole = curve(values).finite
    thin = curve(values).thinned(most)
    assert len(thin.steps) <= most
    assert np.all(np.diff(thin.steps) > 0)
    assert set(zip(*thin, strict=True)) <= set(zip(*whole, strict=True))
    if len(whole.steps):
        assert (thin.steps[0], thin.steps[-1]) == (whole.steps[0], whole.steps[-1])
        assert (thin.values.min(), thin.values.max()) == (whole.values.min(), whole.values.max())


def test_thinned_curve_keeps_least_and_largest_value_of_each_range_of_steps():
    values = np.random.default_rng(0).normal(size=10_000)
    thin = curve(values).thinned(42)
    for piece in np.array_split(values, 20):
        assert {piece.min(), piece.max()} <= set(thin.values)


def test_history_of_a_run_has_figures_samples_counters_and_record(trained):
    history = RunHistory.read(trained)
    assert (history.steps, history.total_steps) == (12, 12)
    assert history.figure("train/loss").steps.tolist() == list(range(1, 13))
    assert list(history.samples) == [4, 8, 12]
    assert history.counters["train_seconds"] > 0
    assert history.evaluation[0] == "final"
    assert history.evaluation[1]["bits_per_byte"] == history.figure("final/bits_per_byte").last
    assert history.tokens_at(np.array([12.0])).tolist() == [history.figure("data/tokens").last]
    assert history.record.text["tokens"].files["train"].num_files > 0
    assert history.checkpoint is not None
    assert not len(history.figure("perf/unknown").steps)


def test_end_of_the_metrics_alone_has_the_last_figures(trained):
    size = (trained / "metrics.jsonl").stat().st_size
    history = RunHistory.read(trained, last_bytes=size // 2)
    assert history.figure("final/loss").last == RunHistory.read(trained).figure("final/loss").last
    assert history.figure("train/loss").steps[0] > 1


def test_rows_of_strange_values_leave_what_is_known():
    rows = [
        {"step": 1, "train/loss": 2.0, "unknown": 3, "sample/0": "a", "sample/1": "b"},
        {"step": 2, "train/loss": None, "train/grad_norm": "x", "sample/0": 7},
        {"step": 10**400, "train/loss": 10**400},
    ]
    figures, samples = read_figures(rows)
    assert figures.keys() == {"train/loss"}
    assert figures["train/loss"].values.tolist() == pytest.approx([2.0, NAN, NAN], nan_ok=True)
    assert samples == {1: ["a", "b"]}


@pytest.mark.parametrize("text", [None, "", "[]", '{"text": 3}', '{"text": {"tokens": {"sources": 1}}}'])
def test_record_of_another_shape_is_empty(tmp_path, text):
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    assert read_record(tmp_path) == RunRecord()


def test_record_names_places_of_this_machine_by_their_last_part():
    text = {
        "tokens": {"sources": ["/home/me/notes", "hf://datasets/o/n", "stdlib://"], "dataset": "", "splits": {}}
    }
    assert RunRecord.model_validate({"text": text}).sources == ["notes", "hf://datasets/o/n", "stdlib://"]


@pytest.mark.parametrize("text", [None, "{", "3", '{"counters": []}', '{"counters": {"step": "x"}}'])
def test_state_of_another_shape_has_no_counters(trained_copy, text):
    (newest, *_) = sorted((trained_copy / "checkpoints").glob("step_*"), reverse=True)
    path = newest / "training" / "state.json"
    path.unlink() if text is None else path.write_text(text)
    history = RunHistory.read(trained_copy)
    assert (history.counters, history.steps, history.total_steps) == ({}, 12, 12)


def test_state_of_format_version_1_lies_beside_the_weights(tmp_path):
    (tmp_path / "state.json").write_text(json.dumps({"counters": {"step": 3}}))
    assert read_state(tmp_path) == {"counters": {"step": 3}}
    assert read_state(None) == {}


def test_folder_without_metrics_is_an_error(trained_copy):
    (trained_copy / "metrics.jsonl").unlink()
    with pytest.raises(DataError, match="metrics.jsonl is missing"):
        RunHistory.read(trained_copy)


@pytest.mark.parametrize(
    ("settings", "said"), [({"total_steps": 2000}, "2,000 steps"), ({"total_seconds": 60.0}, "60 seconds")]
)
def test_planned_end_is_told_in_its_unit(settings, said):
    assert planned_end(RunConfig.model_validate({"scheduler": settings})) == said
