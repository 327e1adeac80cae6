"""Where a training step's time and memory go: a run is built as `train` builds it, and some of its steps watched.

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
from candlewick.train.components import TrainingComponents
from candlewick.train.monitor.telemetry import memory_bytes
from candlewick.train.step import train_step
from candlewick.train.trainer import Trainer

_NUM_OPERATORS = 15
_PARTS = {
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
        """Go over to another phase."""
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
    """Watch `steps` updates; write `trace.json`, on CUDA `memory.pickle`, into `output` and return all figures.

    Activations are what autograd keeps of one micro-batch, with the gradients that the loss makes on the way
    forward; what selective recomputation keeps is not seen. Raises what building a run raises.
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
            with trainer.components.reporter.running(trainer.state):
                return _watch(trainer, output, steps)
        finally:
            trainer.components.loader.close()


def _watch(trainer: Trainer, output: Path, steps: int) -> dict[str, Any]:
    parts = trainer.components
    device = next(parts.objective.parameters()).device
    watch = Stopwatch(device)

    def update() -> None:
        watch.enter("loader")
        batch = parts.loader.next()
        watch.leave()
        train_step(
            parts.objective, parts.optimizer, batch, trainer.config.optimizer.max_grad_norm, parts.loss_scale
        )
        watch.start("other")

    activations = _activations(parts, parts.loader.next().micro_batches[0].to(device))
    _attach(parts, watch)
    for _ in range(2):  # until memory and kernels are there
        update()
    watch.seconds()
    for _ in range(steps):
        update()
    spent = watch.seconds()
    total = sum(spent.values())
    return {
        "steps": steps,
        "step_seconds": total / steps,
        "parts": [{"part": p, "seconds": s / steps, "share": s / total} for p, s in spent.items()],
        "memory": {"activations": activations, **_memory(parts, device)},
        "operators": _trace(update, steps, output, device, ignored=set(spent)),
        "output": str(output),
    }


def _attach(parts: TrainingComponents, watch: Stopwatch) -> None:
    """Let every part of a step tell the stopwatch when it begins and ends."""
    objective, optimizer = parts.objective, parts.optimizer

    def forward(part: str, *_: object) -> None:
        # what runs forward in the backward pass is made again
        watch.enter(f"{'recompute' if watch.phase.startswith('backward') else 'forward'}: {part}")

    def time_calls(owner: Any, method: str, part: str) -> None:
        call = getattr(owner, method)

        def timed(*args: object) -> None:
            watch.start(f"optimizer: {part}")
            call(*args)
            watch.start("other")

        setattr(owner, method, timed)

    objective.register_forward_pre_hook(lambda *_: watch.start("forward: head and loss"))
    objective.register_forward_hook(lambda *_: watch.start("backward: rest"))
    for name, module in objective.model.model.named_modules():
        part = _PARTS.get(name.rpartition(".")[2])
        if part is None:
            continue
        module.register_forward_pre_hook(partial(forward, part))
        module.register_forward_hook(watch.leave, always_call=True)  # recomputation breaks off when it has enough
        if part not in ("rest", "embedding"):  # no gradient flows into these
            module.register_full_backward_pre_hook(partial(watch.enter, f"backward: {part}"))
            module.register_full_backward_hook(watch.leave)
    for each in (optimizer.elementwise, optimizer.muon):
        if each is not None:
            time_calls(each, "step", type(each).__name__)
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


def _costliest(found: Iterable[Any], steps: int, attribute: str, ignored: set[str]) -> list[dict[str, Any]]:
    """Return the operators with the most time, an `attribute` of them in microseconds.

    The kernels that an operator starts are in its time, and found once more as events of the device.
    """
    events = [event for event in found if event.device_type == DeviceType.CPU and event.key not in ignored]
    own = attrgetter(attribute)
    total = sum(map(own, events))
    return [
        {"name": e.key, "calls": e.count / steps, "seconds": own(e) / 1e6 / steps, "share": own(e) / total}
        for e in sorted(events, key=own, reverse=True)[:_NUM_OPERATORS]
    ]


def _activations(parts: TrainingComponents, batch: Batch) -> int:
    """Return the bytes that autograd keeps of a batch for the backward pass; parameters do not count."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # asked for each time: sharding gives the parameters other storages while a block runs
        if storage.data_ptr() not in {w.untyped_storage().data_ptr() for w in parts.local_tensors()["weights"]}:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss: Any = parts.objective(batch.tokens, batch.targets, 1.0, batch.documents)
    of_loss = [grad for grad in loss.grad_fn.grads if grad is not None]  # made on the way forward, not saved
    # until here the loss holds on to all that was seen, so no two of them can have had the same memory
    return sum(kept.values()) + sum(grad.nbytes for grad in of_loss)


def _memory(parts: TrainingComponents, device: torch.device) -> dict[str, int]:
    """Return bytes of what stays from step to step, and the peak on CUDA, else what the process holds."""
    sizes = {name: sum(tensor.nbytes for tensor in group) for name, group in parts.local_tensors().items()}
    return sizes | {"peak" if device.type == "cuda" else "process": memory_bytes(device)}
