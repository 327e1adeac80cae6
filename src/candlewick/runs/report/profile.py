"""The profile of a training step: seconds and bytes of its parts, in a run that is built as `train` builds it.

    | loader | forward: embedding norm attention mlp ... head and loss | backward: mlp ... | optimizer | other |

First with a stopwatch: hooks on the modules charge the time since the last border to the innermost part that is
open, so the parts add up to the whole. On CUDA the borders are events in the stream: the host does not wait. What
autograd does outside of the blocks' modules is `backward: rest`. Then under `torch.profiler`. No checkpoint is
written.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch._C._autograd import DeviceType

from candlewick.config import CheckpointConfig, EvaluationConfig, LoggingConfig, RunConfig
from candlewick.data.rows.loader import Batch
from candlewick.runs.complete import complete_plan
from candlewick.runs.prepare import prepare_run
from candlewick.runs.resolve import Request, resolve
from candlewick.train.build import build
from candlewick.train.monitor.telemetry import memory_bytes
from candlewick.train.step import train_step
from candlewick.train.trainer import Trainer

_NUM_OPERATORS = 15
_MODULES = {
    "": "rest",
    "embed_tokens": "embedding",
    "input_layernorm": "norm",
    "self_attn": "attention",
    "post_attention_layernorm": "norm",
    "mlp": "mlp",
    "norm": "norm",
}


class Stopwatch:
    """Charges time to the innermost open part, else to the phase. Parts are ranges in a profiler's trace too."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._open: list[tuple[str, torch.profiler.record_function]] = []
        self._marks: list[tuple[str, Any]] = []
        self.phase = "other"

    def start(self, phase: str) -> None:
        """Begin a phase, which ends the one before it."""
        self.phase = phase
        self._mark()

    def enter(self, part: str, *_: object) -> None:
        """Open a part."""
        self._open.append((part, torch.profiler.record_function(part)))
        self._open[-1][1].__enter__()
        self._mark()

    def leave(self, *_: object) -> None:
        """Close the newest part."""
        self._open.pop()[1].__exit__(None, None, None)
        self._mark()

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each part since the last call, most first."""
        self._mark()
        marks, self._marks = self._marks, self._marks[-1:]
        if self._device.type == "cuda":  # pragma: cuda
            torch.cuda.synchronize(self._device)
        spent: dict[str, float] = {}
        for (part, start), (_, end) in pairwise(marks):
            seconds = end - start if isinstance(end, float) else start.elapsed_time(end) / 1e3
            spent[part] = spent.get(part, 0.0) + seconds
        return dict(sorted(spent.items(), key=lambda item: -item[1]))

    def _mark(self) -> None:
        if self._device.type == "mps":  # pragma: mps
            torch.mps.synchronize()
        now: Any = time.perf_counter()
        if self._device.type == "cuda":  # pragma: cuda
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        self._marks.append((self._open[-1][0] if self._open else self.phase, now))


def profile_run(config: RunConfig, output: Path, *, steps: int) -> dict[str, Any]:
    """Profile `steps` updates; write `trace.json`, on CUDA `memory.pickle`, into `output` and return all figures.

    Activations are what autograd keeps of one micro-batch, with the gradients that the loss makes on the way
    forward; what selective recomputation keeps is not seen. Raises the CandlewickErrors of `train`.
    """
    checkpoint = CheckpointConfig(init_from=config.runtime.checkpoint.init_from)
    logging, evaluation = LoggingConfig(enable_stdout=False), EvaluationConfig()
    runtime = config.runtime.replaced(checkpoint=checkpoint, evaluation=evaluation, logging=logging)
    config = config.replaced(runtime=runtime)
    output.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="candlewick-") as folder:
        plan = complete_plan(prepare_run(resolve(config, Path(folder), Request())))
        trainer = build(plan)
        try:
            with trainer.reporter.running(trainer.state):
                return _profile(trainer, output, steps)
        finally:
            trainer.loader.close()


def _profile(trainer: Trainer, output: Path, steps: int) -> dict[str, Any]:
    device, max_norm = next(trainer.objective.parameters()).device, trainer.config.optimizer.max_grad_norm
    stopwatch = Stopwatch(device)

    def update() -> None:
        stopwatch.enter("loader")
        batch = trainer.loader.next()
        stopwatch.leave()
        train_step(trainer.objective, trainer.optimizer, batch, max_norm, trainer.loss_scale)
        stopwatch.start("other")

    activations = _activations(trainer, trainer.loader.next().micro_batches[0].to(device))
    _attach(trainer, stopwatch)
    for _ in range(2):  # until memory and kernels are there
        update()
    stopwatch.seconds()
    for _ in range(steps):
        update()
    spent = stopwatch.seconds()
    total = sum(spent.values())
    memory = {name: sum(tensor.nbytes for tensor in group) for name, group in trainer.local_tensors().items()}
    memory["peak" if device.type == "cuda" else "process"] = memory_bytes(device)
    return {
        "steps": steps,
        "step_seconds": total / steps,
        "parts": [{"part": p, "seconds": s / steps, "share": s / total} for p, s in spent.items()],
        "memory": {"activations": activations, **memory},
        "operators": _trace(update, steps, output, device, ignored=set(spent)),
        "output": str(output),
    }


def _attach(trainer: Trainer, stopwatch: Stopwatch) -> None:
    """Hook the stopwatch to the beginning and the end of every part of a step."""
    objective, optimizer = trainer.objective, trainer.optimizer

    def forward(part: str, *_: object) -> None:
        # what runs forward in the backward pass is made again
        stopwatch.enter(f"{'recompute' if stopwatch.phase.startswith('backward') else 'forward'}: {part}")

    def time_calls(owner: Any, method: str, part: str) -> None:
        call = getattr(owner, method)

        def timed(*args: object) -> None:
            stopwatch.start(f"optimizer: {part}")
            call(*args)
            stopwatch.start("other")

        setattr(owner, method, timed)

    objective.register_forward_pre_hook(lambda *_: stopwatch.start("forward: head and loss"))
    objective.register_forward_hook(lambda *_: stopwatch.start("backward: rest"))
    for name, module in objective.model.model.named_modules():
        part = _MODULES.get(name.rpartition(".")[2])
        if part is None:
            continue
        module.register_forward_pre_hook(partial(forward, part))
        module.register_forward_hook(
            stopwatch.leave, always_call=True
        )  # recomputation breaks off when it has enough
        if part not in ("rest", "embedding"):  # no gradient flows into these
            module.register_full_backward_pre_hook(partial(stopwatch.enter, f"backward: {part}"))
            module.register_full_backward_hook(stopwatch.leave)
    for algorithm in filter(None, (optimizer.elementwise, optimizer.muon)):
        time_calls(algorithm, "step", type(algorithm).__name__)
    if optimizer.average is not None:
        time_calls(optimizer.average, "update", "average")


def _trace(
    update: Callable[[], None], steps: int, output: Path, device: torch.device, ignored: set[str]
) -> list[dict[str, Any]]:
    """Run steps under the profiler, write the trace, and return the operators with the most time of their own."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    is_cuda = device.type == "cuda"
    if is_cuda:  # pragma: cuda
        activities.append(torch.profiler.ProfilerActivity.CUDA)
        torch.cuda.memory._record_memory_history(max_entries=100_000)  # pyright: ignore[reportPrivateUsage]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(steps):
            update()
    profiler.export_chrome_trace(str(output / "trace.json"))
    if is_cuda:  # pragma: cuda
        torch.cuda.memory._dump_snapshot(str(output / "memory.pickle"))  # pyright: ignore[reportPrivateUsage]
        torch.cuda.memory._record_memory_history(enabled=None)  # pyright: ignore[reportPrivateUsage]
    attribute = "self_device_time_total" if is_cuda else "self_cpu_time_total"
    return _costliest(profiler.key_averages(), steps, attribute, ignored)


def _costliest(averages: Iterable[Any], steps: int, attribute: str, ignored: set[str]) -> list[dict[str, Any]]:
    """Return the operators with the most time, an `attribute` of them in microseconds.

    The kernels that an operator starts are in its time; they are events of the device as well, which are left out.
    """
    events = [event for event in averages if event.device_type == DeviceType.CPU and event.key not in ignored]
    time_of = attrgetter(attribute)
    total = sum(map(time_of, events))
    return [
        {"name": e.key, "calls": e.count / steps, "seconds": time_of(e) / 1e6 / steps, "share": time_of(e) / total}
        for e in sorted(events, key=time_of, reverse=True)[:_NUM_OPERATORS]
    ]


def _activations(trainer: Trainer, batch: Batch) -> int:
    """Return the bytes that autograd keeps of a batch for the backward pass; parameters do not count."""
    sizes: dict[int, int] = {}  # by the address of the memory

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # asked for each time: sharding gives the parameters other storages while a block runs
        if storage.data_ptr() not in {w.untyped_storage().data_ptr() for w in trainer.local_tensors()["weights"]}:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        loss: Any = trainer.objective(batch.tokens, batch.targets, 1.0, batch.documents)
    gradients = filter(lambda grad: grad is not None, loss.grad_fn.grads)  # made on the way forward, not saved
    # until here the loss holds on to all tensors that were recorded, so no two of them had the same memory
    return sum(sizes.values()) + sum(grad.nbytes for grad in gradients)
