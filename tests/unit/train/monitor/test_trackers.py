"""Metric trackers: rows read back, a crash loses one line, a resumed run repeats no step."""

import contextlib
import io
import json
import logging
import os
import random
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing import event_accumulator as accumulator

from candlewick.errors import DataError, MachineError
from candlewick.train.monitor import trackers
from candlewick.train.monitor.trackers import (
    METRICS,
    JsonlTracker,
    TensorBoardTracker,
    iterate_metrics,
    metric_of,
    read_metrics,
)


def write(path: Path, steps: range, resume_step: int | None = None) -> None:
    tracker = JsonlTracker(path, resume_step=resume_step)
    for step in steps:
        tracker.log(step, {"train/loss": step / 8})
    tracker.close()


def test_metric_rows_are_read_back_as_written(tmp_path: Path):
    path = tmp_path / "runs" / "one" / "metrics.jsonl"
    tracker = JsonlTracker(path)
    tracker.log(10, {"train/loss": 3.5, "perf/tokens_per_second": 1e6})
    tracker.text(10, "sample/0", 'é\n"quoted"')
    assert read_metrics(path)[0] == {"step": 10, "train/loss": 3.5, "perf/tokens_per_second": 1e6}, "flushed"
    tracker.close()
    assert read_metrics(path)[1] == {"step": 10, "sample/0": 'é\n"quoted"'}


def test_new_run_starts_a_new_metrics_file(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 5))
    write(path, range(1, 3))
    assert [row["step"] for row in read_metrics(path)] == [1, 2]


def test_resume_drops_later_metric_rows_and_repeats_none(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 8))
    write(path, range(6, 11), resume_step=5)
    assert [row["step"] for row in read_metrics(path)] == list(range(1, 11))


def test_resume_without_a_metrics_file_creates_one(tmp_path: Path):
    write(tmp_path / "metrics.jsonl", range(6, 8), resume_step=5)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(min_value=0, max_value=200), resume_step=st.integers(min_value=0, max_value=9))
def test_metrics_file_truncated_anywhere_is_continued_with_complete_rows(
    tmp_path_factory: pytest.TempPathFactory, cut: int, resume_step: int
):
    path = tmp_path_factory.mktemp("cut") / "metrics.jsonl"
    write(path, range(1, 8))
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    kept = [json.loads(line)["step"] for line in whole[:cut].splitlines(keepends=True) if line.endswith(b"\n")]
    assert [row["step"] for row in read_metrics(path)] == kept
    write(path, range(resume_step + 1, 11), resume_step=resume_step)
    steps = [row["step"] for row in read_metrics(path)]
    assert steps == [step for step in kept if step <= resume_step] + list(range(resume_step + 1, 11))


@pytest.mark.parametrize("tail", [b"\0\0\0\n", b"[1, 2]\n", b'{"loss": 1}\n', b'{"step": "1"}\n', b"\xff\n"])
def test_malformed_last_metric_row_is_skipped_and_cut(tmp_path: Path, tail: bytes):
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 4))
    good = path.read_bytes()
    path.write_bytes(good + tail)
    assert len(read_metrics(path)) == 3
    JsonlTracker(path, resume_step=3).close()
    assert path.read_bytes() == good


def test_damaged_metric_rows_warn_once_and_cost_no_other_row(tmp_path: Path, caplog):
    path = tmp_path / "metrics.jsonl"
    good = '{"step": 1}\nrubbish\n[]\n{"step": 3}\n\0\n{"step": 4}\n'
    path.write_text(good + 'torn\n{"step": 5}\n{"step": 2}\n{"st', encoding="utf-8")
    JsonlTracker(path, resume_step=4).close()
    assert path.read_text(encoding="utf-8") == good
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{path} line 2 is not a row of metrics: the file was damaged or edited"
    ]
    caplog.clear()
    assert [row["step"] for row in read_metrics(path)] == [1, 3, 4]
    assert len(caplog.records) == 1


def test_missing_metrics_file_is_refused_by_name(tmp_path: Path):
    with pytest.raises(DataError, match="is missing: no run has logged there"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_metrics_that_are_not_finite_become_null(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    tracker = JsonlTracker(path)
    tracker.log(1, {"train/loss": float("nan"), "train/grad_norm": float("inf")})
    tracker.close()
    assert read_metrics(path) == [{"step": 1, "train/loss": None, "train/grad_norm": None}]


def test_metric_outside_the_table_is_refused(tmp_path: Path):
    tracker = JsonlTracker(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match="not in METRICS .*: train/los"):
        tracker.log(1, {"train/los": 1.0})
    tracker.close()


def test_metric_names_are_grouped_and_explained():
    for name, meaning in METRICS.items():
        assert name.split("/")[0] in {"train", "optim", "perf", "data", "eval", "final", "stats"}
        assert meaning


def test_tensorboard_files_read_back_without_repeated_steps(tmp_path: Path):
    first = TensorBoardTracker(tmp_path)
    for step in range(1, 8):
        first.log(step, {"train/loss": step / 8, "eval/loss": 1.0})
    first.text(7, "sample/0", "<b>one</b>\ntwo")
    first.close()
    second = TensorBoardTracker(tmp_path, resume_step=5)
    for step in range(6, 11):
        second.log(step, {"train/loss": -step / 8})
    second.text(10, "sample/0", "three")
    second.close()

    events = accumulator.EventAccumulator(str(tmp_path), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    losses = events.Scalars("train/loss")
    assert [event.step for event in losses] == list(range(1, 11))
    assert [event.value for event in losses] == [step / 8 * (1 if step <= 5 else -1) for step in range(1, 11)]
    texts = events.Tensors("sample/0/text_summary")
    assert texts[-1].step == 10
    assert texts[-1].tensor_proto.string_val[0] == b"    three\n"


def test_missing_tensorboard_package_raises_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MachineError, match=r"needs the package tensorboard.*pip install 'candlewick\[tensorb"):
        TensorBoardTracker(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_metrics_file_on_a_full_disk_raises_with_its_name(tmp_path: Path):
    tracker = JsonlTracker(tmp_path / "metrics.jsonl")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, tracker._file._file.fileno())
    os.close(full)
    for action in (lambda: tracker.log(1, {"train/loss": 1.0}), tracker.close):
        with pytest.raises(OSError, match="No space left") as caught:
            action()
        assert caught.value.filename == str(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("eval/loss", "eval/loss"),
        ("eval/loss/loss", "eval/NAME/loss"),
        ("final/loss", "final/loss"),
        ("final/code/loss", "final/NAME/loss"),
        ("eval/mixture_0/bits_per_byte", "eval/NAME/bits_per_byte"),
        ("stats/layers.12/activation_max", "stats/PART/activation_max"),
        ("stats/head/weight_rms", "stats/PART/weight_rms"),
    ],
)
def test_metric_of_maps_set_and_layer_names_to_table_rows(name, metric):
    assert metric_of(name) == metric
    assert metric in METRICS
    assert metric_of("stats/tail/weight_rms") not in METRICS


def test_letters_are_written_as_utf8_whatever_the_locale_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(io, "text_encoding", lambda encoding, *_: encoding or "ascii")
    tracker = JsonlTracker(tmp_path / "metrics.jsonl")
    tracker.text(1, "sample/0", "größe")
    tracker.close()
    assert '"größe"'.encode() in (tmp_path / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(("rows", "told"), [(range(1, 4), 0), (range(1, 5), 1)])
def test_only_rows_that_are_cut_off_are_told(tmp_path: Path, caplog, rows: range, told: int):
    write(tmp_path / "metrics.jsonl", rows)
    with caplog.at_level(logging.INFO):
        JsonlTracker(tmp_path / "metrics.jsonl", resume_step=3).close()
    assert caplog.text.count("written after step 3 are cut off") == told


@pytest.mark.parametrize(
    ("flush_every", "seconds", "written"), [(None, 3.0, [4]), (None, 11.0, [1, 2, 3, 4, 5]), (2, 11.0, [2, 4])]
)
def test_tensorboard_is_flushed_by_time_or_by_rows(tmp_path, monkeypatch, flush_every, seconds, written):
    now = [100.0]
    monkeypatch.setattr(trackers.time, "monotonic", lambda: now[0])
    tracker = TensorBoardTracker(tmp_path, flush_every=flush_every)
    (file,) = tmp_path.iterdir()
    size, found = file.stat().st_size, list[int]()
    for step in range(1, 6):
        now[0] += seconds
        tracker.log(step, {"train/loss": 1.0})
        if file.stat().st_size > size:
            size = file.stat().st_size
            found.append(step)
    assert found == written
    tracker.text(6, "sample/0", "one")
    for finish in (tracker.flush, tracker.close):
        finish()
        assert file.stat().st_size > size


def test_tensorboard_records_that_could_not_be_written_are_written_with_the_next(tmp_path):
    tracker: Any = TensorBoardTracker(tmp_path, flush_every=1)
    for step, free in enumerate([1000, 10, 0, 5, 1000], start=1):
        room_for(tracker._file, free)
        with contextlib.suppress(OSError):
            tracker.log(step, {"train/loss": step / 8, "train/grad_norm": 1.0})
    tracker.close()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    for name in ("train/loss", "train/grad_norm"):
        assert [event.step for event in events.Scalars(name)] == [1, 2, 3, 4, 5]


def test_resume_of_a_long_run_keeps_few_rows_in_memory(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}, "train/loss": 2.5}}\n' for step in range(1, 20_001)))
    tracemalloc.start()
    JsonlTracker(path, resume_step=19_999).close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    assert len(read_metrics(path)) == 19_999


def room_for(appended: Any, free: int) -> None:
    """Let a file take so many more bytes, as a disk that is nearly full does."""
    write, room = getattr(appended._file, "whole_write", appended._file.write), [free]

    def write_a_part(content: bytes) -> int:
        if not (size := min(room[0], len(content))):
            raise OSError(28, "No space left on device")
        room[0] -= size
        return write(content[:size])

    appended._file = SimpleNamespace(write=write_a_part, whole_write=write, close=appended._file.close)


def test_rows_that_could_not_be_written_are_written_with_the_next(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    tracker: Any = JsonlTracker(path)
    for step, free in enumerate([1000, 10, 0, 5, 1000]):  # a row that is torn is completed later
        room_for(tracker._file, free)
        with contextlib.suppress(OSError):
            tracker.log(step, {"train/loss": step / 8})
    tracker.close()
    assert [row["step"] for row in read_metrics(path)] == [0, 1, 2, 3, 4]
    assert path.read_text().count("\n") == 5


def test_metrics_with_a_flipped_bit_lose_a_row_and_take_on_no_other_meaning(tmp_path: Path):
    """400 flips, one at a time, all over the file: a resume keeps every other row up to its step."""
    path, choose = tmp_path / "metrics.jsonl", random.Random(4)
    write(path, range(1, 21))
    good, rows = path.read_bytes(), read_metrics(path)
    for _ in range(400):
        content = bytearray(good)
        content[choose.randrange(len(good))] ^= 1 << choose.randrange(8)
        path.write_bytes(content)
        found = read_metrics(path)
        assert len(found) >= 18  # without a line break two are one
        # of the first row the name of the checksum may be hit: then it is an old one, with a figure of that name
        assert all(row in rows or (row["step"], row["train/loss"], len(row)) == (1, 1 / 8, 3) for row in found)
        JsonlTracker(path, resume_step=10).close()
        kept = [row["step"] for row in read_metrics(path)]
        assert set(kept) <= set(range(1, 11))
        assert len(kept) >= 8


def test_rows_of_an_older_version_have_no_checksum_and_are_read(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "train/loss": 2.0}\n')
    write(path, range(2, 4), resume_step=1)
    path.write_bytes(path.read_bytes() + b'{"step": 4}\n')  # not of this version
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
    assert path.read_text().count("crc32") == 2


def test_line_that_is_longer_than_any_row_is_read_in_pieces(tmp_path: Path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 3))
    monkeypatch.setattr(trackers, "_MAX_LINE_BYTES", 100)
    path.write_bytes(path.read_bytes() + b'{"step": 3, "x": "' + b"a" * 1000 + b'"}\n')
    assert [row["step"] for row in read_metrics(path)] == [1, 2]


def test_rows_in_the_last_bytes_of_a_file_are_whole_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "metrics.jsonl"
    tracker = JsonlTracker(path)
    for step in range(1, 20):
        tracker.log(step, {"train/loss": float(step)})
    tracker.close()
    lines = path.read_bytes().splitlines(keepends=True)
    for number in range(len(lines)):
        last_bytes = len(b"".join(lines[number:]))
        for more, first in ((0, number + 1), (1, number + 1), (-1, number + 2)):
            rows = list(iterate_metrics(path, last_bytes + more))
            assert [row["step"] for row in rows] == list(range(first, 20))
    assert list(iterate_metrics(path, 10**9)) == read_metrics(path)
    assert not caplog.records
