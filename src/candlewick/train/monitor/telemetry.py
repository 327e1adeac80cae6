"""Figures of the speed of a run: tokens per second, model FLOP/s utilization, memory, time left.

    |-- training --|-- evaluation --|-- training --|-- saving --|     a monotonic clock; no wall-clock time
                   ^ charge("training")            ^ charge("training")

Each call charges the time since the last one to an activity, so tokens/s and MFU (model FLOP/s over the device's
peak) are those of training. The ETA counts all activities: recent seconds per row, times the rows that are left.
Peaks are dense bfloat16 with float32 accumulation from the makers' datasheets, whatever precision a run uses, so
that MFU compares between runs. A device that is not in the table is measured with a matrix product instead.
"""

import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import torch

from candlewick.model.flops import FlopsPerToken
from candlewick.parallel.precision import product_seconds

Activity = Literal["training", "evaluation", "saving"]
_ACTIVITIES: tuple[Activity, ...] = get_args(Activity)

_DATASHEET_FLOPS = {
    "B200": 2250e12,  # NVIDIA DGX B200 datasheet
    "H200": 989.4e12,  # NVIDIA H200 datasheet
    "H100 NVL": 835.5e12,  # NVIDIA H100 datasheet, as the next two
    "H100 PCIe": 756.5e12,
    "H100": 989.4e12,
    "A100": 312e12,  # NVIDIA A100 datasheet
    "L40S": 362e12,  # NVIDIA L40S datasheet
    "RTX 5090": 209.5e12,  # NVIDIA RTX Blackwell GPU architecture, appendix A
    "RTX 4090": 165.2e12,  # NVIDIA Ada GPU architecture, appendix A
}
"""Part of the device's name -> dense bfloat16 FLOP/s. The first that matches holds."""

_MEASURE_SECONDS = 0.1
_NEWEST_WEIGHT = 0.3


class Telemetry:
    """Turns counts and the clock into figures per log interval.

    `peak_flops` is the peak of all ranks together. `work` maps a number of updates to the
    work that they are, in any unit: for the ETA of a run whose updates grow.
    """

    def __init__(
        self,
        flops: FlopsPerToken,
        peak_flops: float,
        *,
        device: torch.device,
        work: Callable[[int], float] = float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._flops = {"perf/mfu_strict": flops.strict, "perf/mfu_palm": flops.palm}
        self._peak_flops = peak_flops
        self._device = device
        self._work, self._clock = work, clock
        self._seconds_per_work: float | None = None
        self._last_wait = 0.0
        self.start(step=0, tokens=0)

    def start(self, *, step: int, tokens: int) -> None:
        """Begin to measure after `step` updates; the time until now is charged to nothing."""
        self._last_step, self._last_tokens = step, tokens
        self._spent = dict.fromkeys(_ACTIVITIES, 0.0)
        self._mark = self._clock()

    def charge(self, activity: Activity) -> None:
        """Charge the time since the last call to `activity`."""
        now = self._clock()
        self._spent[activity] += now - self._mark
        self._mark = now

    def row(self, *, step: int, tokens: int, wait_seconds: float, total_steps: int | None) -> dict[str, float]:
        """Return the `perf/` figures since the last row from totals of the run so far; call `charge` first."""
        spent, self._spent = self._spent, dict.fromkeys(_ACTIVITIES, 0.0)
        new_work, self._last_step = self._work(step) - self._work(self._last_step), step
        new_tokens, self._last_tokens = tokens - self._last_tokens, tokens
        waited, self._last_wait = wait_seconds - self._last_wait, wait_seconds
        training, total = max(spent["training"], 1e-9), max(sum(spent.values()), 1e-9)
        speed = new_tokens / training
        row = {
            "perf/tokens_per_second": speed,
            "perf/data_wait_share": min(1.0, waited / training),
            "perf/evaluation_share": spent["evaluation"] / total,
            "perf/saving_share": spent["saving"] / total,
            "perf/memory_bytes": float(memory_bytes(self._device)),
            **{name: speed * flops / self._peak_flops for name, flops in self._flops.items()},
        }
        if new_work > 0:
            newest = total / new_work
            before = newest if self._seconds_per_work is None else self._seconds_per_work
            self._seconds_per_work = before + _NEWEST_WEIGHT * (newest - before)
        if total_steps is not None and self._seconds_per_work is not None:
            left = max(0.0, self._work(total_steps) - self._work(step))
            row["perf/eta_seconds"] = left * self._seconds_per_work
        return row


def memory_bytes(device: torch.device) -> int:
    """Return the peak of allocated memory since the last call on CUDA, else the memory in use by now."""
    if device.type == "cuda":  # pragma: cuda
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    if device.type == "mps":  # pragma: mps
        return torch.mps.driver_allocated_memory()
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def measure_peak_flops(device: torch.device) -> float:
    """Return the peak FLOP/s of one device: the datasheet's, else the best of some matrix products."""
    if device.type == "cuda" and (flops := datasheet_flops(torch.cuda.get_device_name(device))):  # pragma: cuda
        return flops
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    size = 1024 if device.type == "cpu" else 4096
    return 2 * size**3 / product_seconds(torch.empty(size, size, dtype=dtype, device=device), _MEASURE_SECONDS)


def datasheet_flops(name: str) -> float | None:
    """Return the dense bfloat16 FLOP/s of a CUDA device by its name, None for one that is not in the table."""
    return next((flops for part, flops in _DATASHEET_FLOPS.items() if part in name), None)
