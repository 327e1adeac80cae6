"""Telemetry: rates of training time, shares of total time, the remaining time, memory and peak FLOPS."""

import mmap
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from candlewick.model.flops import FlopsPerToken
from candlewick.train.monitor import telemetry
from candlewick.train.monitor.telemetry import (
    Activity,
    Telemetry,
    datasheet_flops,
    measure_peak_flops,
    memory_bytes,
)
from candlewick.train.monitor.trackers import METRICS

CPU = torch.device("cpu")
seconds = st.floats(min_value=0.01, max_value=1000.0)


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def make(**settings) -> tuple[Telemetry, Clock]:
    clock = Clock()
    return Telemetry(FlopsPerToken(6_000_000, 8_000_000), 1e12, device=CPU, clock=clock, **settings), clock


@given(training=seconds, evaluation=seconds, saving=seconds)
def test_telemetry_rates_use_training_time_and_shares_total_time(
    training: float, evaluation: float, saving: float
):
    meter, clock = make()
    lengths: dict[Activity, float] = {"training": training, "evaluation": evaluation, "saving": saving}
    for activity, length in lengths.items():
        clock.now += length
        meter.charge(activity)
    row = meter.row(step=10, tokens=50_000, wait_seconds=training / 4, total_steps=30)
    whole = training + evaluation + saving
    assert row["perf/tokens_per_second"] == pytest.approx(50_000 / training)
    assert row["perf/mfu_strict"] == pytest.approx(50_000 / training * 6e6 / 1e12)
    assert row["perf/mfu_palm"] == pytest.approx(50_000 / training * 8e6 / 1e12)
    assert row["perf/data_wait_share"] == pytest.approx(0.25)
    assert row["perf/evaluation_share"] == pytest.approx(evaluation / whole)
    assert row["perf/saving_share"] == pytest.approx(saving / whole)
    assert row["perf/eta_seconds"] == pytest.approx(2 * whole)
    assert row.keys() <= METRICS.keys()


def test_telemetry_row_covers_the_interval_since_the_last_row():
    meter, clock = make()
    for tokens in (1000, 4000):
        clock.now += 2.0
        meter.charge("training")
        row = meter.row(step=tokens // 100, tokens=tokens, wait_seconds=tokens / 4000, total_steps=None)
    assert row["perf/tokens_per_second"] == pytest.approx(1500.0)
    assert row["perf/data_wait_share"] == pytest.approx(0.375)
    assert "perf/eta_seconds" not in row


def test_eta_follows_a_change_of_speed_slowly_and_ends_at_zero():
    meter, clock = make()
    etas = []
    for step, length in ((1, 1.0), (2, 1.0), (3, 5.0), (100, 97.0)):
        clock.now += length
        meter.charge("training")
        etas.append(meter.row(step=step, tokens=step, wait_seconds=0.0, total_steps=100)["perf/eta_seconds"])
    assert etas[:2] == [pytest.approx(99.0), pytest.approx(98.0)]
    assert 97.0 < etas[2] < 97.0 * 5
    assert etas[3] == 0.0


def test_eta_accounts_for_a_batch_ramp():
    meter, clock = make(work=lambda steps: min(steps, 10) + 4 * max(0, steps - 10))
    clock.now += 5.0
    meter.charge("training")
    row = meter.row(step=5, tokens=5, wait_seconds=0.0, total_steps=20)
    assert row["perf/eta_seconds"] == pytest.approx(45.0)


def test_telemetry_of_a_resumed_run_excludes_earlier_steps():
    meter, clock = make()
    clock.now += 50.0
    meter.start(step=1000, tokens=10**6)
    clock.now += 2.0
    meter.charge("training")
    row = meter.row(step=1010, tokens=10**6 + 5000, wait_seconds=0.0, total_steps=1020)
    assert row["perf/tokens_per_second"] == pytest.approx(2500.0)
    assert row["perf/eta_seconds"] == pytest.approx(2.0)


def test_telemetry_row_without_elapsed_time_is_finite():
    meter, _ = make()
    row = meter.row(step=0, tokens=0, wait_seconds=0.0, total_steps=10)
    assert row["perf/tokens_per_second"] == 0.0
    assert "perf/eta_seconds" not in row


def test_memory_bytes_agrees_with_the_system(monkeypatch: pytest.MonkeyPatch):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert 1e7 < memory_bytes(CPU) <= 1.05 * peak
    monkeypatch.setattr(Path, "exists", lambda self: False)
    monkeypatch.setattr(telemetry.resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=1000))
    monkeypatch.setattr(telemetry.platform, "system", lambda: "Linux")
    assert memory_bytes(CPU) == 1_024_000  # kilobytes there
    monkeypatch.setattr(telemetry.platform, "system", lambda: "Darwin")
    assert memory_bytes(CPU) == 1000


def test_measured_peak_flops_are_plausible():
    assert 1e8 < measure_peak_flops(CPU) < 1e14


def test_a_product_of_square_matrices_counts_two_operations_for_each_multiplication(monkeypatch):
    products = []
    monkeypatch.setattr(telemetry, "product_seconds", lambda matrix, _: products.append(matrix) or 0.5)
    peak = measure_peak_flops(CPU)
    (matrix,) = products
    assert (matrix.shape[0], matrix.dtype) == (matrix.shape[1], torch.float32)
    assert peak == 2 * len(matrix) ** 3 / 0.5


def test_waiting_takes_no_more_than_all_of_the_time():
    meter, clock = make()
    clock.now += 2.0
    meter.charge("training")
    row = meter.row(step=1, tokens=1, wait_seconds=2.5, total_steps=None)
    assert row["perf/data_wait_share"] == 1.0


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756.5e12),
        ("NVIDIA H100 NVL", 835.5e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA GeForce RTX 5090", 209.5e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_datasheet_flops_are_found_by_the_device_name(name: str, flops: float | None):
    assert datasheet_flops(name) == flops


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the peak is all that this system tells")
def test_memory_bytes_excludes_freed_memory():
    with mmap.mmap(-1, 1 << 28) as pages:  # not from malloc, which may keep what is freed
        for offset in range(0, len(pages), mmap.PAGESIZE):
            pages[offset] = 1
        held = memory_bytes(CPU)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert memory_bytes(CPU) < peak - (1 << 27)
    assert memory_bytes(CPU) < held - (1 << 27)
