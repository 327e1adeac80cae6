import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from candlewick.errors import ArtifactError, DataError
from candlewick.runs.report.events import write_events
from candlewick.train.monitor.trackers import read_metrics


def test_event_files_have_every_figure_and_text_of_the_metrics(trained, tmp_path):
    write_events(trained, tmp_path)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    rows = read_metrics(trained / "metrics.jsonl")
    for name in ("train/loss", "eval/bits_per_byte", "optim/learning_rate", "final/loss"):
        expected = [(row["step"], pytest.approx(row[name])) for row in rows if name in row]
        assert [(event.step, event.value) for event in events.Scalars(name)] == expected
    assert "sample/0/text_summary" in events.Tags()["tensors"]


def test_figures_that_are_not_finite_are_left_out(tmp_path):
    rows = [{"step": 1, "train/loss": None, "train/grad_norm": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_events(tmp_path, tmp_path / "events")
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert events.Tags()["scalars"] == ["train/grad_norm"]


def test_folder_with_event_files_is_refused(trained, tmp_path):
    write_events(trained, tmp_path)
    with pytest.raises(ArtifactError, match="has TensorBoard files.*another folder"):
        write_events(trained, tmp_path)


def test_folder_without_metrics_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(DataError, match="metrics.jsonl is missing"):
        write_events(tmp_path, tmp_path / "events")
    assert not (tmp_path / "events").exists()
