"""How exact, fast and large our attention is, beside the full matrix of scores and transformer_candle's figures.

    python benchmarks/attention.py [--quick] [--device cpu|cuda] [--json FILE] [--plots DIR]

Causal attention of shape (batch, heads, tokens, width), forward alone and with its backward pass ("training").

    ours    `candlewick.model.attention.attend`
    naive   all scores at once, in float32 whatever the dtype, as in transformer_candle's reference path

Exact: the largest error from softmax attention in float64, computed in blocks of rows, so in bounded memory. Fast:
the sides take turns in one process; medians. Large: each case in a fresh process, the growth of resident memory to
its peak (on CUDA of allocated memory, in one process), with the output, without the inputs, after a small call.

transformer_candle's figures were published without naming a machine, so only their ratios compare. It counted
every head's tokens as tokens (B H T per second), which the table does too; `tokens_per_second` in the JSON is B T.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from bars import draw
from loader import machine
from torch import Tensor

from candlewick.model.attention import attend

Json = dict[str, Any]
Shape = tuple[int, int, int, int]
Side = Callable[[Tensor, Tensor, Tensor], Tensor]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PASSES = ("forward", "training")
SHAPES: list[Shape] = [
    (1, 4, 128, 64),
    (1, 4, 512, 64),
    (1, 4, 2048, 64),
    (1, 4, 2048, 128),
    (2, 4, 2048, 128),
    (2, 4, 4096, 128),
]
EXACT_SHAPES: list[Shape] = [(1, 4, tokens, d) for tokens in (32, 128, 512, 2048, 8192) for d in (64, 80, 128)]
CANDLE = {  # thousands of B H T per second: its reference path, its "fused" path
    ((1, 4, 128, 64), "float32"): (876.44, 533.77),
    ((1, 4, 128, 64), "bfloat16"): (876.38, 549.86),
    ((1, 4, 512, 64), "float32"): (616.19, 167.77),
    ((1, 4, 512, 64), "bfloat16"): (597.26, 172.06),
    ((1, 4, 2048, 64), "float32"): (175.16, 47.32),
    ((1, 4, 2048, 64), "bfloat16"): (174.71, 47.46),
    ((1, 4, 2048, 128), "float32"): (144.90, 39.89),
    ((1, 4, 2048, 128), "bfloat16"): (144.08, 40.00),
    ((2, 4, 2048, 128), "float32"): (145.59, 37.40),
    ((2, 4, 2048, 128), "bfloat16"): (142.58, 38.24),
    ((2, 4, 4096, 128), "bfloat16"): (72.28, 19.84),
}
CANDLE_ERRORS = {"float32": 7.45e-7, "bfloat16": 3.91e-3, "float16": 9.77e-4}  # of its two paths from each other
NAIVE_TOKENS = 2048  # up to here the naive side's error is measured too
LEAST_SECONDS = 0.02  # of one timing


@lru_cache(maxsize=1)
def future(tokens: int, device: torch.device) -> Tensor:
    return torch.ones(tokens, tokens, dtype=torch.bool, device=device).triu(1)


def naive(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q.float() @ k.float().mT) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(future(q.shape[2], q.device), -torch.inf).softmax(dim=-1)
    return (weights @ v.float()).to(q.dtype)


SIDES: dict[str, Side] = {"ours": attend, "naive": naive}


def exact(q: Tensor, k: Tensor, v: Tensor, rows: int = 256) -> Tensor:
    """Softmax attention in float64, `rows` queries at a time against the keys up to the last of them."""
    q, k, v = q.double() * q.shape[-1] ** -0.5, k.double(), v.double()
    parts: list[Tensor] = []
    for start in range(0, q.shape[2], rows):
        end = min(start + rows, q.shape[2])
        scores = q[:, :, start:end] @ k[:, :, :end].mT
        place = torch.arange(end, device=q.device)
        hidden = place > place[start:, None]
        parts.append(scores.masked_fill(hidden, -torch.inf).softmax(dim=-1) @ v[:, :, :end])
    return torch.cat(parts, dim=2)


def inputs(shape: Shape, dtype: str, device: torch.device) -> list[Tensor]:
    """Queries, keys, values, and the gradient of the output."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device, DTYPES[dtype]) for _ in range(4)]


def call(side: str, kind: str, tensors: Sequence[Tensor]) -> Callable[[], object]:
    """Return one pass, to be run again and again."""
    *qkv, grad = tensors
    if kind == "forward":
        return torch.no_grad()(lambda: SIDES[side](*qkv))
    qkv = [x.detach().requires_grad_() for x in qkv]
    return lambda: torch.autograd.grad(SIDES[side](*qkv), qkv, grad)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# exact


def measure_errors(shape: Shape, dtype: str, device: torch.device) -> Json:
    q, k, v, _ = inputs(shape, dtype, device)
    truth = exact(q, k, v)
    sides = SIDES if shape[2] <= NAIVE_TOKENS else {"ours": attend}
    errors = {name: (side(q, k, v).double() - truth).abs().max().item() for name, side in sides.items()}
    return {"shape": shape, "dtype": dtype, "max_abs_error": errors}


# fast


def take_turns(
    calls: Mapping[str, Callable[[], object]], device: torch.device, repeats: int, seconds: float
) -> dict[str, list[float]]:
    """Return seconds per call of each side: `repeats` timings, fewer (at least 3) if that takes too long."""

    def timing(run: Callable[[], object], count: int) -> float:
        synchronize(device)
        began = time.perf_counter()
        for _ in range(count):
            run()
        synchronize(device)
        return (time.perf_counter() - began) / count

    counts: dict[str, int] = {}
    for name, run in calls.items():
        run()
        counts[name] = max(1, math.ceil(LEAST_SECONDS / max(timing(run, 1), 1e-9)))
    spent: dict[str, list[float]] = {name: [] for name in calls}
    began = time.perf_counter()
    for turn in range(repeats):
        if turn >= 3 and time.perf_counter() - began > seconds:
            break
        for name in list(calls) if turn % 2 == 0 else list(calls)[::-1]:
            spent[name].append(timing(calls[name], counts[name]))
    return spent


def rates(shape: Shape, dtype: str, kind: str, spent: Mapping[str, Sequence[float]]) -> Json:
    batch, heads, tokens, _ = shape
    medians = {name: statistics.median(values) for name, values in spent.items()}
    return {
        "shape": shape,
        "dtype": dtype,
        "pass": kind,
        "seconds": {name: sorted(values) for name, values in spent.items()},
        "tokens_per_second": {name: batch * tokens / value for name, value in medians.items()},
        "head_tokens_per_second": {name: batch * heads * tokens / value for name, value in medians.items()},
        "ratio_of_medians": medians["naive"] / medians["ours"],
    }


# large


def measure_growth(shape: Shape, dtype: str, kind: str, side: str, device: torch.device) -> Json:
    """Return by how many bytes one pass raises the peak of this process, or of the device."""
    tensors = inputs(shape, dtype, device)
    # what is loaded or compiled at first use is no activation
    call(side, kind, inputs((1, 1, min(shape[2], 256), shape[3]), dtype, device))()
    future.cache_clear()
    run = call(side, kind, tensors)
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = run()
        synchronize(device)
        return {"bytes": torch.cuda.max_memory_allocated(device) - before, "how": "max_memory_allocated"}
    is_reset = reset_peak()
    before = peak_bytes()
    result = run()
    growth = peak_bytes() - before
    del result
    return {"bytes": growth, "how": "VmHWM" if is_reset else "ru_maxrss, not reset before"}


def reset_peak() -> bool:
    """Let the peak of resident memory begin anew where it is now; only Linux can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_bytes() -> int:
    """Return the largest resident size of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = (line.split() for line in status.read_text().splitlines())
        if peak := [int(words[1]) * 1024 for words in lines if words and words[0] == "VmHWM:"]:
            return peak[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def growth_of_child(shape: Shape, dtype: str, kind: str, side: str, device: torch.device) -> Json:
    """Return `measure_growth` of a fresh process, in which freed memory goes back at once.

    On CUDA this process will do: torch counts what is allocated, whatever it keeps.
    """
    if device.type == "cuda":
        return measure_growth(shape, dtype, kind, side, device)
    case = json.dumps([shape, dtype, kind, side, str(device)])
    done = subprocess.run(
        [sys.executable, __file__, "--child", case],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "4096", "MALLOC_TRIM_THRESHOLD_": "4096"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{case} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


# what comes out


def table(result: Json) -> str:
    """Return the Markdown table: thousands of B H T per second in the forward pass, and MiB."""
    head = ("shape", "dtype", "candle reference", "candle fused", "naive", "**ours**", "ours / naive")
    head += ("naive training", "ours training", *(f"{side} MiB {kind}" for kind in PASSES for side in SIDES))
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    speed = {(tuple(c["shape"]), c["dtype"], c["pass"]): c for c in result["throughput"]}
    memory = {(tuple(c["shape"]), c["dtype"], c["pass"], c["side"]): c["bytes"] for c in result["memory"]}
    for shape, dtype in dict.fromkeys(key[:2] for key in speed):
        forward, training = (speed[shape, dtype, kind]["head_tokens_per_second"] for kind in PASSES)
        published = [f"{value:,.1f}" for value in CANDLE.get((shape, dtype), ())] or ["", ""]
        cells = [str(shape).replace(" ", ""), dtype, *published]
        cells += [f"{forward['naive'] / 1e3:,.1f}", f"**{forward['ours'] / 1e3:,.1f}**"]
        cells.append(f"{speed[shape, dtype, 'forward']['ratio_of_medians']:.2f}")
        cells += [f"{training[side] / 1e3:,.1f}" for side in ("naive", "ours")]
        sizes = [memory.get((shape, dtype, kind, side)) for kind in PASSES for side in SIDES]
        lines.append(" | ".join([*cells, *("" if size is None else f"{size / 2**20:,.2f}" for size in sizes)]))
    lines += ["", " | ".join(("dtype", "tokens", "largest error, ours", "naive", "candle's two paths apart")), ""]
    lines[-1] = " | ".join(["---"] * 5)
    for dtype in dict.fromkeys(c["dtype"] for c in result["correctness"]):
        cases = [c for c in result["correctness"] if c["dtype"] == dtype]
        worst = {side: max(c["max_abs_error"].get(side, 0.0) for c in cases) for side in SIDES}
        lengths = sorted(c["shape"][2] for c in cases)
        cells = [dtype, f"{lengths[0]} to {lengths[-1]}", f"{worst['ours']:.2e}", f"{worst['naive']:.2e}"]
        lines.append(" | ".join([*cells, f"{CANDLE_ERRORS[dtype]:.2e}"]))
    return "\n".join(f"| {line} |" if line else "" for line in lines)


def write_plots(result: Json, folder: Path) -> None:
    """Write one SVG file per question."""

    def label(case: Json) -> str:
        return f"{tuple(case['shape'])} {case['dtype']}".replace(", ", ",")

    speed: dict[str, dict[str, float | None]] = {}
    for case in result["throughput"]:
        if case["pass"] == "forward":
            reference, fused = CANDLE.get((tuple(case["shape"]), case["dtype"]), (None, None))
            group = {side: case["head_tokens_per_second"][side] / 1e3 for side in SIDES}
            speed[label(case)] = {**group, "candle reference": reference, "candle fused": fused}
    draw(folder / "attention_throughput.svg", "Attention, forward", "thousands of B H T per second", speed)
    for kind in PASSES:
        growth: dict[str, dict[str, float | None]] = {}
        for case in result["memory"]:
            if case["pass"] == kind:
                growth.setdefault(label(case), {})[case["side"]] = case["bytes"] / 2**20
        draw(folder / f"attention_memory_{kind}.svg", f"Attention, {kind}", "MiB at the peak", growth)
    errors = {label(case): case["max_abs_error"] for case in result["correctness"]}
    draw(folder / "attention_correctness.svg", "Attention", "largest error, from float64", errors)


def measure(args: argparse.Namespace, device: torch.device) -> Json:
    shapes, exact_shapes, dtypes = SHAPES, EXACT_SHAPES, list(DTYPES)
    if args.quick:
        shapes, exact_shapes, dtypes = [(1, 2, 64, 16)], [(1, 2, 32, 16), (1, 2, 64, 16)], ["float32"]
    correctness: list[Json] = []
    throughput: list[Json] = []
    memory: list[Json] = []
    for dtype in dtypes:
        for shape in exact_shapes:
            correctness.append(measure_errors(shape, dtype, device))
            print(f"error {correctness[-1]}", file=sys.stderr)
        for shape, kind in ((shape, kind) for shape in shapes for kind in PASSES):
            for side in SIDES:
                growth = growth_of_child(shape, dtype, kind, side, device)
                memory.append({"shape": shape, "dtype": dtype, "pass": kind, "side": side, **growth})
                print(f"memory {memory[-1]}", file=sys.stderr)
            tensors = inputs(shape, dtype, device)
            calls = {side: call(side, kind, tensors) for side in SIDES}
            spent = take_turns(calls, device, args.repeats, args.seconds)
            throughput.append(rates(shape, dtype, kind, spent))
            print(f"{shape} {dtype} {kind}: {throughput[-1]['ratio_of_medians']:.2f} x naive", file=sys.stderr)
    about: Json = {
        **machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": str(device),
    }
    if device.type == "cuda":
        about["gpu"] = torch.cuda.get_device_name(device)
    return {**about, "correctness": correctness, "throughput": throughput, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to see that it works; writes no JSON")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=30.0, help="most seconds of a case from 3 repeats on")
    parser.add_argument("--json", type=Path, help="default: results/attention-DATE.json beside this file")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="also write SVG files here")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        shape, dtype, kind, side, device = json.loads(args.child)
        print(json.dumps(measure_growth(tuple(shape), dtype, kind, side, torch.device(device))))
        return
    result = measure(args, torch.device(args.device))
    path = args.json
    if path is None and not args.quick:
        path = Path(__file__).parent / "results" / f"attention-{result['date']}.json"
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
    if args.plots is not None:
        write_plots(result, args.plots)
    print(table(result))


if __name__ == "__main__":
    main()
