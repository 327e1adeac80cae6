import contextlib
import io
import os
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from candlewick import terminal
from candlewick.config import LoggingConfig, RuntimeConfig
from candlewick.model.flops import FlopsPerToken
from candlewick.train import reporter as reporter_module
from candlewick.train.monitor.display import Display
from candlewick.train.monitor.telemetry import Telemetry
from candlewick.train.monitor.trackers import METRICS, read_metrics
from candlewick.train.reporter import Reporter
from candlewick.train.state import TrainState
from candlewick.train.step import StepResult

METRICS_OF_EVALUATION = {
    "eval/loss": 2.5,
    "eval/perplexity": 12.18,
    "eval/accuracy": 0.25,
    "eval/bits_per_byte": 1.9,
    "eval/tokens": 1000.0,
}


@pytest.fixture
def shown(monkeypatch) -> io.StringIO:
    """What is shown to the user."""
    out = io.StringIO()

    def display(total_steps, enabled):
        return Display(total_steps, enabled, Console(file=out, width=200, highlight=False))

    monkeypatch.setattr(reporter_module, "Display", display)
    return out


def make(run_dir, *, resume_step=None, **logging) -> Reporter:
    telemetry = Telemetry(FlopsPerToken(1_000_000, 1_000_000), 1e12, device=torch.device("cpu"))
    runtime = RuntimeConfig(logging=LoggingConfig(**{"tensorboard": False, **logging}))
    loader: Any = SimpleNamespace(epoch=0.5, wait_seconds=0.0)
    return Reporter(runtime, run_dir, telemetry, loader, resume_step, 300)


def result(loss: float) -> StepResult:
    return StepResult(loss=torch.tensor(loss), grad_norm=torch.tensor(0.5), skipped=torch.tensor(0.0))


def test_reporter_writes_a_row_and_a_line_per_event(tmp_path, shown):
    reporter, state = make(tmp_path), TrainState(total_steps=4)
    with reporter.running(state):
        state.step, state.tokens, state.skipped_steps = 1, 128, 2
        reporter.step(state, {"train/loss": 3.25}, result(3.25), 0.02)
        reporter.evaluation(state, METRICS_OF_EVALUATION)
        reporter.samples(state, [("def ", "f():\n  \x1b[31mpass"), ("", "two")])
        reporter.end_training_interval()
        reporter.checkpoint(state, tmp_path / "step_000000001")
        state.step = 4
        final = {name.replace("eval/", "final/"): figure for name, figure in METRICS_OF_EVALUATION.items()}
        reporter.evaluation(state, final)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 1, 1, 1, 4]
    assert rows[0]["train/loss"] == 3.25
    assert rows[0]["train/skipped_steps"] == 2
    assert "train/loss_scale" not in rows[0]
    assert (rows[0]["optim/learning_rate"], rows[0]["data/tokens"], rows[0]["data/epoch"]) == (0.02, 128, 0.5)
    assert {"perf/tokens_per_second", "perf/mfu_strict", "perf/eta_seconds"} <= rows[0].keys()
    assert rows[1] == {"step": 1, **METRICS_OF_EVALUATION}
    assert rows[2] == {"step": 1, "sample/0": "def f():\n  \x1b[31mpass"}
    assert {name for row in rows for name in row} - {"step", "sample/0", "sample/1"} <= METRICS.keys()
    text = shown.getvalue()
    assert "loss 3.2500" in text
    assert "step 1  validation: 1.9000 bits per byte, loss 2.5000, perplexity 12.18" in text
    assert "step 4  validation (all of it): 1.9000 bits" in text
    assert "    | def f():\n    |   ␛[31mpass" in text
    assert "saved" in text


def test_reporter_without_stdout_writes_rows_and_shows_nothing(tmp_path, shown):
    reporter, state = make(tmp_path, enable_stdout=False), TrainState(step=1)
    with reporter.running(state):
        reporter.step(state, {"train/loss": 3.25}, result(3.25), 0.02)
        reporter.evaluation(state, METRICS_OF_EVALUATION)
    assert shown.getvalue() == ""
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2


def test_reporter_records_a_nan_loss_as_none(tmp_path, shown):
    reporter, state = make(tmp_path), TrainState(step=1)
    with reporter.running(state):
        reporter.step(state, {"train/loss": float("nan")}, result(float("nan")), 0.02)
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["train/loss"] is None


def test_reporter_closes_its_files_after_an_error(tmp_path, shown):
    reporter = make(tmp_path)
    with pytest.raises(ZeroDivisionError), reporter.running(TrainState()):
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="closed file"):
        reporter.evaluation(TrainState(), METRICS_OF_EVALUATION)


def test_reporter_of_a_resumed_run_repeats_no_row(tmp_path, shown):
    for resume_step in (None, 1):
        reporter, state = make(tmp_path, resume_step=resume_step), TrainState(step=1)
        with reporter.running(state):
            reporter.evaluation(state, METRICS_OF_EVALUATION)
            reporter.samples(state, [("", "text\u2028of two lines")])
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2


@pytest.mark.parametrize("where", [True, "elsewhere"])
def test_tensorboard_setting_selects_the_folder(tmp_path, shown, where):
    folder = tmp_path / "tensorboard" if where is True else tmp_path / where
    reporter, state = make(tmp_path, tensorboard=where if where is True else folder), TrainState(step=1)
    with reporter.running(state):
        reporter.evaluation(state, METRICS_OF_EVALUATION)
    assert list(folder.glob("events.out.tfevents.*"))


def test_reporter_shows_further_validation_sets_after_the_main_one(tmp_path, shown):
    reporter, state = make(tmp_path), TrainState(step=1)
    further = {name.replace("eval/", "eval/code/"): value / 2 for name, value in METRICS_OF_EVALUATION.items()}
    with reporter.running(state):
        reporter.evaluation(state, {**METRICS_OF_EVALUATION, **further})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, **METRICS_OF_EVALUATION, **further}]
    assert "perplexity 12.18, code 1.2500\n" in shown.getvalue()


def test_reporter_records_statistics_and_the_loss_scale(tmp_path, shown):
    reporter, state = make(tmp_path), TrainState(step=3)
    with reporter.running(state):
        reporter.log(3, {"stats/layers.0/weight_rms": 0.5})
        reporter.step(state, {"train/loss": 3.25}, replace(result(3.25), loss_scale=torch.tensor(1024.0)), 0.02)
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert first == {"step": 3, "stats/layers.0/weight_rms": 0.5}
    assert second["train/loss_scale"] == 1024


@pytest.mark.parametrize(("level", "times"), [("debug", 1), ("info", 1), ("warning", 0)])
def test_reporter_shows_an_evaluation_once_and_not_at_warning_level(tmp_path, shown, capsys, level, times):
    terminal.setup(level)
    reporter, state = make(tmp_path), TrainState(step=1)
    with terminal.log_file(tmp_path / "log.txt"), reporter.running(state):
        reporter.evaluation(state, METRICS_OF_EVALUATION)
    assert (shown.getvalue() + capsys.readouterr().err).count("validation") == times
    assert (tmp_path / "log.txt").read_text().count("validation") == 1


def test_reporter_without_display_logs_an_evaluation_at_debug_level(tmp_path, shown, capsys):
    terminal.setup("debug")
    reporter, state = make(tmp_path, enable_stdout=False), TrainState(step=1)
    with reporter.running(state):
        reporter.evaluation(state, METRICS_OF_EVALUATION)
    assert capsys.readouterr().err.count("validation") == 1


def test_time_belongs_to_the_activity_that_each_event_ends(tmp_path, shown):
    spent = []
    telemetry: Any = SimpleNamespace(start=lambda **_: None, charge=spent.append, row=lambda **_: {})
    loader: Any = SimpleNamespace(epoch=0.5, wait_seconds=0.0)
    reporter, state = Reporter(RuntimeConfig(), tmp_path, telemetry, loader, None, 300), TrainState(step=1)
    with reporter.running(state):
        reporter.step(state, {"train/loss": 3.25}, result(3.25), 0.02)
        reporter.end_training_interval()
        reporter.evaluation(state, METRICS_OF_EVALUATION)
        reporter.samples(state, [])
        reporter.checkpoint(state, tmp_path)
    assert spent == ["training", "training", "evaluation", "evaluation", "saving"]


def test_telemetry_expects_the_end_by_the_work_of_updates():
    telemetry = Telemetry(FlopsPerToken(1, 1), 1e12, device=torch.device("cpu"), work=lambda steps: steps**2)
    telemetry.charge("training")
    first = telemetry.row(step=1, tokens=1, wait_seconds=0.0, total_steps=2)["perf/eta_seconds"]
    later = telemetry.row(step=1, tokens=1, wait_seconds=0.0, total_steps=3)["perf/eta_seconds"]
    assert later == pytest.approx(first * 8 / 3)


def test_only_the_loss_of_a_further_validation_set_stands_in_the_line(tmp_path, shown):
    reporter, state = make(tmp_path), TrainState(step=1)
    with reporter.running(state):
        reporter.evaluation(state, {**METRICS_OF_EVALUATION, "eval/code/tokens": 7.0, "eval/a/loss": 1.0})
    assert shown.getvalue().endswith("perplexity 12.18, a 1.0000\n")


def test_tensorboard_rows_of_later_steps_are_purged_and_flushed_as_asked(tmp_path, shown, monkeypatch):
    made, other = [], SimpleNamespace(flush=lambda: None, close=lambda: None)
    monkeypatch.setattr(
        reporter_module, "TensorBoardTracker", lambda folder, **settings: made.append(settings) or other
    )
    with make(tmp_path, tensorboard=True, tensorboard_flush_every_n=3, resume_step=7).running(TrainState()):
        pass
    assert made == [{"resume_step": 7, "flush_every": 3}]


def test_rows_are_written_out_before_an_evaluation_or_a_save(tmp_path, shown):
    reporter, state = make(tmp_path, tensorboard=True, tensorboard_flush_every_n=100), TrainState(total_steps=4)
    with reporter.running(state):
        (file,) = (tmp_path / "tensorboard").iterdir()
        sizes = [file.stat().st_size]
        for event in (
            lambda: reporter.step(state, {"train/loss": 3.25}, result(3.25), 0.02),
            reporter.end_training_interval,
        ):
            event()
            sizes.append(file.stat().st_size)
    assert sizes[0] == sizes[1] < sizes[2]


def test_figures_are_shown_when_the_run_ends(tmp_path, shown):
    reporter, state = make(tmp_path), TrainState(total_steps=4)
    with reporter.running(state):
        for state.step in (1, 2):
            reporter.step(state, {"train/loss": 3.25}, result(3.25), 0.02)
    assert [line.split()[1] for line in shown.getvalue().splitlines()] == ["1/4", "2/4"]


def test_the_display_starts_and_stops_with_the_run(tmp_path, monkeypatch):
    events = []
    display = SimpleNamespace(start=lambda: events.append("start"), stop=lambda: events.append("stop"))
    monkeypatch.setattr(reporter_module, "Display", lambda *_, **__: display)
    with make(tmp_path).running(TrainState()):
        events.append("run")
    assert events == ["start", "run", "stop"]


class Failing:
    """A tracker that cannot write for a while."""

    def __init__(self) -> None:
        self.fails, self.rows = False, list[int]()

    def log(self, step, row):
        if self.fails:
            raise OSError(28, "No space left on device")
        self.rows.append(step)


def test_tracker_that_fails_is_one_warning_until_it_writes_again(tmp_path, shown, caplog):
    reporter, tracker = make(tmp_path), Failing()
    trackers: list[Any] = reporter._trackers
    trackers.append(tracker)
    for step, fails in enumerate([False, True, True, False, True]):
        tracker.fails = fails
        reporter.log(step, {"train/loss": 1.0})
    assert tracker.rows == [0, 3]
    trackers[0].close()
    rows = read_metrics(tmp_path / "metrics.jsonl")  # the other tracker goes on
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


def test_figures_of_the_last_update_are_tried_once_more_at_the_end(tmp_path, shown, monkeypatch):
    reporter, state = make(tmp_path), TrainState(total_steps=4)
    file: Any = reporter._trackers[0]._file
    tries = iter([OSError(28, "No space left on device")] * 2)

    def write(content: bytes) -> int:
        if (error := next(tries, None)) is not None:
            raise error
        return real.write(content)

    with reporter.running(state):
        real, file._file = file._file, SimpleNamespace(write=write, close=lambda: None)
        reporter.log(1, {"train/loss": 1.0})
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1]
    real.close()


def test_display_without_a_reader_is_dropped_and_the_run_goes_on(tmp_path, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        console = terminal.error_console()
        console.file = gone
        monkeypatch.setattr(reporter_module, "Display", lambda total, enabled: Display(total, enabled, console))
        reporter, state = make(tmp_path), TrainState(total_steps=4)
        with reporter.running(state):
            for step in (1, 2):
                state.step = step
                reporter.step(state, {"train/loss": 3.25}, result(3.25), 0.02)
                reporter.evaluation(state, METRICS_OF_EVALUATION)
                reporter.samples(state, [("a", "b")])
        with contextlib.suppress(BrokenPipeError):
            gone.close()
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 6


def test_gradients_that_are_all_zero_are_told_once(tmp_path, shown, caplog):
    reporter, state = make(tmp_path), TrainState(total_steps=4)
    dead = replace(result(5.5), grad_norm=torch.tensor(0.0))
    with reporter.running(state):
        for step, update in enumerate((result(5.5), dead, dead), start=1):
            state.step = step
            reporter.step(state, {"train/loss": 3.25}, update, 0.02)
    (record,) = caplog.records
    assert record.getMessage() == "step 2: all gradients are zero, so nothing is learned"


def test_loss_of_guessing_after_a_hundred_updates_is_told_once(tmp_path, shown, caplog):
    reporter, state = make(tmp_path), TrainState(total_steps=400)
    with reporter.running(state):
        for step, loss in ((50, 5.7), (99, 5.7), (100, 5.6), (150, 5.7), (200, 5.8)):  # ln 300 = 5.704
            state.step = step
            reporter.step(state, {"train/loss": loss}, result(loss), 0.02)
    assert [record.getMessage() for record in caplog.records] == [
        "step 150: the training loss, 5.70, is that of guessing, so nothing is learned yet"
    ]


def test_loss_scale_at_its_least_is_told_once(tmp_path, shown, caplog):
    reporter, state = make(tmp_path), TrainState(total_steps=4)
    with reporter.running(state):
        for scale in (2.0, 1.0, 1.0):
            state.step += 1
            reporter.step(state, {"train/loss": 3.0}, replace(result(3.0), loss_scale=torch.tensor(scale)), 0.02)
    (record,) = caplog.records
    assert record.getMessage().startswith("step 2: the loss scale of fp16 fell to 1, its least: set runtime.prec")


@pytest.mark.parametrize("is_installed", [True, False])
def test_tensorboard_is_on_by_itself_where_it_is_installed(tmp_path, shown, monkeypatch, is_installed):
    monkeypatch.setattr(reporter_module, "find_spec", lambda _: object() if is_installed else None)
    if not is_installed:
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # importing it would raise
    reporter, state = make(tmp_path, tensorboard=None), TrainState(step=1)
    with reporter.running(state):
        reporter.evaluation(state, METRICS_OF_EVALUATION)
    assert bool(list(tmp_path.glob("tensorboard/events.out.tfevents.*"))) == is_installed


def test_tensorboard_that_is_installed_and_broken_is_a_warning(tmp_path, shown, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with make(tmp_path, tensorboard=None).running(TrainState()):
        pass
    assert "TensorBoard is installed and does not work" in caplog.text
