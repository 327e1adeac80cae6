import json
import time
from types import SimpleNamespace

import pytest
import torch
from torch._C._autograd import DeviceType

from candlewick.runs.report.profile import Stopwatch, _costliest, profile_run


@pytest.fixture
def profiled(tiny, tmp_path):
    """Profile one step of a tiny run: `profiled(runtime={...})`."""

    def run(**sections):
        return profile_run(tiny(**sections), tmp_path / "out", steps=1)

    return run


def test_profile_shares_of_the_parts_add_up_to_the_step(profiled):
    result = profiled()
    assert sum(part["share"] for part in result["parts"]) == pytest.approx(1)
    assert sum(part["seconds"] for part in result["parts"]) == pytest.approx(result["step_seconds"])
    assert {part["part"] for part in result["parts"]} == {
        "loader",
        *(f"forward: {part}" for part in ("embedding", "norm", "attention", "mlp", "rest", "head and loss")),
        *(f"backward: {part}" for part in ("norm", "attention", "mlp", "rest")),
        "optimizer: Muon",
        "optimizer: AdamW",
        "other",
    }


def test_profile_trace_has_the_parts_as_ranges_and_not_as_operators(profiled, tmp_path):
    result = profiled()
    trace = json.loads((tmp_path / "out" / "trace.json").read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {"forward: attention", "backward: mlp", "loader"} < names
    assert not any(entry["name"].startswith(("forward", "backward", "loader")) for entry in result["operators"])
    assert result["operators"] == sorted(result["operators"], key=lambda entry: -entry["seconds"])


def test_profile_counts_the_memory_of_each_kind(profiled):
    memory = profiled(optimizer={"algorithm": "adam_w"})["memory"]
    assert memory["weights"] == memory["gradients"]
    assert 2 * memory["weights"] < memory["optimizer"] < 2.1 * memory["weights"]
    assert memory["activations"] > 0
    assert memory["process"] > sum(size for name, size in memory.items() if name != "process")


def test_profile_of_recompute_has_less_activation_memory_and_recompute_parts(profiled):
    whole, again = profiled(), profiled(runtime={"recompute": "block"})
    assert again["memory"]["activations"] < whole["memory"]["activations"]
    assert {"recompute: attention", "recompute: mlp"} < {part["part"] for part in again["parts"]}
    assert sum(part["share"] for part in again["parts"]) == pytest.approx(1)


def test_profile_with_ema_has_a_part_for_averages(profiled):
    parts = {part["part"] for part in profiled(optimizer={"ema_decay": 0.9})["parts"]}
    assert "optimizer: average" in parts


def test_profile_writes_only_its_trace(profiled, tmp_path):
    best, saved = tmp_path / "best", tmp_path / "saved"
    profiled(
        runtime={
            "device": "cpu",
            "checkpoint": {"directory": str(saved)},
            "evaluation": {"best": {"directory": str(best)}},
            "logging": {"enable_stdout": True, "tensorboard": str(tmp_path / "board")},
        }
    )
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["trace.json"]


def test_stopwatch_assigns_time_to_the_innermost_part_or_the_phase(monkeypatch):
    clock = iter([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    watch = Stopwatch(torch.device("cpu"))
    watch.start("phase")
    watch.enter("outer")
    watch.enter("inner")
    watch.leave()
    watch.leave()
    watch.start("last")
    spent = watch.seconds()
    assert spent == {"last": 32.0, "phase": 17.0, "outer": 10.0, "inner": 4.0}
    assert list(spent) == ["last", "phase", "outer", "inner"]
    assert watch.seconds() == {"last": 64.0}


def test_profile_counts_the_gradients_that_the_loss_keeps(profiled):
    small, large = (profiled(model={"vocab_size": rows})["memory"]["activations"] for rows in (512, 1024))
    assert large - small == 512 * 32 * 4  # of the head, in float32


def test_profile_counts_a_kernel_once_with_its_operator():
    events = [
        SimpleNamespace(key="aten::mm", count=4, self_device_time_total=30.0, device_type=DeviceType.CPU),
        SimpleNamespace(key="aten::add", count=2, self_device_time_total=10.0, device_type=DeviceType.CPU),
        SimpleNamespace(key="forward: mlp", count=2, self_device_time_total=5.0, device_type=DeviceType.CPU),
        SimpleNamespace(key="gemm_kernel", count=4, self_device_time_total=30.0, device_type=DeviceType.CUDA),
        SimpleNamespace(key="forward: mlp", count=2, self_device_time_total=40.0, device_type=DeviceType.CUDA),
    ]
    found = _costliest(events, 2, "self_device_time_total", {"forward: mlp"})
    assert [(entry["name"], entry["calls"], entry["share"]) for entry in found] == [
        ("aten::mm", 2, 0.75),
        ("aten::add", 1, 0.25),
    ]
