"""What each choice costs or gains in training speed and memory on one device.

    python benchmarks/training.py [--device cuda] [--seconds 240] [--json FILE] [--dry-run]

The model is the profile runpod_1b with 8 layers, then with all 20, in bfloat16 and rows of 2,048 tokens. From one
baseline a single factor changes at a time; then the gains come together, beside the same shape in transformers
(autocast, torch's fused AdamW, all logits at once). Each case builds model, loss and optimizer as a run does and
makes 2 updates to warm up and 10 that are timed (the device is waited for before and after), of 16 rows each.
Tokens are random: no figure depends on their values.

Tokens/s, MFU in both conventions of `candlewick.model.flops` and the peak of allocated memory are written to the
JSON file after every case, so that a run that is cut off keeps what it has; what was not reached is listed there.
--dry-run takes a tiny model on the CPU, to see that every case runs.
"""

import argparse
import gc
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from loader import machine
from torch import Tensor
from torch._C._autograd import DeviceType
from torch.distributed.fsdp import FSDPModule
from torch.nn.attention import SDPBackend, sdpa_kernel

from candlewick.config import ModelConfig, MuonConfig, OptimizerConfig, RunConfig
from candlewick.config.load import load_config
from candlewick.config.optimizer import AdamWConfig
from candlewick.data.rows.loader import Batch, GlobalBatch
from candlewick.model.flops import flops_per_token, model_size
from candlewick.model.transformer import Transformer
from candlewick.optim.build import build_optimizer
from candlewick.parallel.device import Distributed, configure_torch
from candlewick.parallel.fsdp import apply_fsdp
from candlewick.parallel.recompute import Recompute, apply_recompute
from candlewick.train.monitor.telemetry import measure_peak_flops
from candlewick.train.objective import NextTokenLoss
from candlewick.train.step import train_step

Json = dict[str, Any]
Update = Callable[[GlobalBatch], Tensor]

ROWS, WARM_UP, UPDATES = 16, 2, 10
NUM_OPERATORS = 30
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


@dataclass(frozen=True, slots=True)
class Case:
    """One way to train. The defaults are the baseline."""

    layers: int = 8
    micro_batch: int = 4
    attention: str | None = None  # None: whichever kernel torch prefers
    is_compiled: bool = False  # each block
    loss_rows: int | None = None  # of a chunk of logits; None: as `NextTokenLoss` chooses
    recompute: Recompute = "none"
    gathers: str = "each pass"  # when weights are cast to the compute dtype; or "once" per update, gradients too
    peer: str | None = None  # train the same shape in the way of another library
    optimizer: OptimizerConfig = field(default_factory=MuonConfig)

    def changes(self, baseline: "Case") -> Json:
        """Return the factors in which this case differs, as plain values."""
        names = [name for name in self.__slots__ if getattr(self, name) != getattr(baseline, name)]
        values = {name: getattr(self, name) for name in names}
        return values | ({"optimizer": self.optimizer.algorithm} if "optimizer" in values else {})


GAINS = {"is_compiled": True, "loss_rows": 8192, "gathers": "once"}


def plan(all_layers: int) -> list[Case]:
    """Return all cases: one factor at a time on 8 layers, then gains and peer, then the whole model."""
    base = Case(layers=min(8, all_layers))
    adam = replace(base, optimizer=AdamWConfig())
    whole = replace(adam, layers=all_layers)
    return [
        base,
        adam,
        replace(base, is_compiled=True),
        *(replace(base, loss_rows=rows) for rows in (512, 2048, 8192)),
        *(replace(base, attention=backend) for backend in BACKENDS),
        *(replace(base, micro_batch=rows) for rows in (2, 8, 16)),
        *(replace(base, recompute=mode) for mode in ("selective", "block")),
        replace(base, recompute="block", is_compiled=True),
        replace(base, gathers="once"),
        replace(base, gathers="once", micro_batch=2),
        replace(base, micro_batch=8, **GAINS),
        replace(adam, micro_batch=8),
        replace(adam, micro_batch=8, peer="transformers"),
        replace(adam, micro_batch=8, is_compiled=True),
        replace(adam, micro_batch=8, is_compiled=True, peer="transformers"),
        replace(adam, micro_batch=8, **GAINS),
        replace(adam, micro_batch=16, **GAINS),
        replace(whole, optimizer=base.optimizer),
        whole,
        replace(whole, micro_batch=8, **GAINS),
        replace(whole, micro_batch=8, is_compiled=True, peer="transformers"),
    ]


def build(case: Case, config: ModelConfig, vocab_size: int, ranks: Distributed) -> tuple[Update, int]:
    """Return an update as a run makes it, and the rows of a chunk of its loss. The weights are random."""
    torch.manual_seed(0)
    with torch.device("meta"):
        model = Transformer(config, vocab_size)
    model.to_empty(device=ranks.device)
    model.init_buffers()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.02) if weight.dim() > 1 else weight.fill_(1.0)
    objective = NextTokenLoss(model, num_tokens=vocab_size)
    if case.loss_rows is not None:
        objective.settings = objective.settings._replace(rows=case.loss_rows)
    apply_recompute(model, case.recompute)
    apply_fsdp(objective, model.model.layers, ranks)
    if case.is_compiled:
        for block in model.model.layers:  # the function, so that sharding's hooks stay outside of the graph
            block.forward = torch.compile(
                block.forward, backend=compiler(ranks.device), dynamic=False, fullgraph=True
            )
    if case.gathers == "once" and isinstance(objective, FSDPModule):
        gather_once(objective, ROWS // case.micro_batch)
    objective.train()
    optimizer = build_optimizer(model, case.optimizer)
    return lambda batch: train_step(objective, optimizer, batch, 1.0).loss, objective.settings.rows


def gather_once(objective: FSDPModule, micro_batches: int) -> None:
    """Keep the cast weights, and the sum of their gradients, for all micro-batches of an update."""
    place = 0

    def before_forward(*_: object) -> None:
        nonlocal place
        place = place % micro_batches + 1
        is_last = place == micro_batches
        objective.set_requires_gradient_sync(is_last)
        objective.set_reshard_after_backward(is_last)

    objective.set_reshard_after_forward(False)
    cast("torch.nn.Module", objective).register_forward_pre_hook(before_forward)


def build_peer(case: Case, config: ModelConfig, vocab_size: int, device: torch.device) -> Update:
    """Return an update of the same shape by transformers, under autocast, with torch's fused AdamW."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        max_position_embeddings=config.max_position_embeddings,
        use_cache=False,
    )
    shape._attn_implementation = "sdpa"
    with device:
        model = LlamaForCausalLM(shape).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(model, backend=compiler(device), dynamic=False) if case.is_compiled else model

    def update(batch: GlobalBatch) -> Tensor:
        losses = []
        for micro_batch in batch.micro_batches:
            moved = micro_batch.to(device)
            with torch.autocast(device.type, torch.bfloat16):
                logits = forward(input_ids=moved.tokens).logits
                loss = F.cross_entropy(
                    logits.flatten(0, 1).float(), moved.targets.flatten().long(), reduction="sum"
                )
            (loss / batch.num_targets).backward()
            losses.append(loss.detach() / batch.num_targets)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return torch.stack(losses).sum()

    return update


def random_batch(case: Case, length: int, vocab_size: int, generator: torch.Generator) -> GlobalBatch:
    """Return the rows of one update."""
    text = torch.randint(vocab_size, (ROWS, length + 1), generator=generator, dtype=torch.int32)
    tokens, targets = text[:, :-1].split(case.micro_batch), text[:, 1:].split(case.micro_batch)
    micro_batches = tuple(Batch(x.contiguous(), y.contiguous()) for x, y in zip(tokens, targets, strict=True))
    return GlobalBatch(micro_batches, ROWS * length)


def compiler(device: torch.device) -> str:
    """Return torch's compiler; a dry run on the CPU traces graphs only, for code takes minutes."""
    return "inductor" if device.type == "cuda" else "aot_eager"


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def kernels(case: Case, device: torch.device) -> Iterator[None]:
    """Let attention use one kernel only, on CUDA; the CPU has only one that is fast."""
    with sdpa_kernel(BACKENDS[case.attention]) if case.attention and device.type == "cuda" else nullcontext():
        yield


def measure(case: Case, config: RunConfig, ranks: Distributed, updates: int, *, is_profiled: bool = False) -> Json:
    """Make the updates of one case; return its figures."""
    device, length = ranks.device, config.sequence_length
    vocab_size = config.model.vocab_size or 0
    shape = config.model.replaced(num_layers=case.layers)
    generator = torch.Generator().manual_seed(0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began, build_seconds = time.perf_counter(), 0.0
    if case.peer is None:
        update, rows = build(case, shape, vocab_size, ranks)
    else:
        update, rows = build_peer(case, shape, vocab_size, device), None
    seconds: list[float] = []
    with kernels(case, device):
        for step in range(WARM_UP + updates):
            batch = random_batch(case, length, vocab_size, generator)
            synchronize(device)
            start = time.perf_counter()
            build_seconds = start - began if step == 0 else build_seconds
            loss = update(batch)
            synchronize(device)
            seconds.append(time.perf_counter() - start)
        batch = random_batch(case, length, vocab_size, generator)
        costs = operators(lambda: update(batch), device) if is_profiled else None
    speed = ROWS * length / statistics.median(seconds[WARM_UP:])
    flops = flops_per_token(shape, vocab_size, length)
    assert math.isfinite(loss.item())  # our update skips what is not finite, and would be faster
    figures: Json = {
        "parameters": model_size(shape, vocab_size).total,
        "loss_rows": rows,
        "seconds": [round(value, 5) for value in seconds[WARM_UP:]],
        "first_update_seconds": round(seconds[0], 2),
        "build_seconds": round(build_seconds, 2),
        "tokens_per_second": round(speed),
        "mfu_strict": round(speed * flops.strict / peak_flops(device), 4),
        "mfu_palm": round(speed * flops.palm / peak_flops(device), 4),
        "loss": round(loss.item(), 4),
    }
    if device.type == "cuda":
        figures["peak_gib"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    return figures if costs is None else figures | {"operators": costs}


def operators(step: Callable[[], object], device: torch.device) -> list[Json]:
    """Return the device's kernels (on the CPU its operators) by the time that one update spends in each."""
    activity = torch.profiler.ProfilerActivity
    on_cuda = device.type == "cuda"
    with torch.profiler.profile(activities=[activity.CPU, *([activity.CUDA] if on_cuda else [])]) as profiler:
        step()
        synchronize(device)
    times = [
        (event.self_device_time_total if on_cuda else event.self_cpu_time_total, event)
        for event in profiler.key_averages()
        if not on_cuda or event.device_type == DeviceType.CUDA
    ]
    times.sort(key=lambda pair: -pair[0])
    return [
        {"name": event.key[:160], "calls": event.count, "milliseconds": round(spent / 1000, 3)}
        for spent, event in times[:NUM_OPERATORS]
    ]


_PEAKS: dict[torch.device, float] = {}


def peak_flops(device: torch.device) -> float:
    """Return the datasheet's FLOP/s, or what a product reached."""
    if device not in _PEAKS:
        _PEAKS[device] = measure_peak_flops(device)
    return _PEAKS[device]


def free(device: torch.device) -> None:
    """Give back the memory of the case before: a failed one is still referred to by its traceback."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def name_case(case: Case) -> Json:
    """Return the layers and what differs from their baseline."""
    return {"layers": case.layers} | case.changes(Case(layers=case.layers))


def tiny() -> RunConfig:
    """Return the config of a dry run: the same kinds of layers, narrow."""
    return load_config("runpod_1b").replaced(
        model={
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": 300,
            "max_position_embeddings": 32,
        }
    )


def run(arguments: argparse.Namespace, write: Callable[[Json], None]) -> Json:
    """Measure case after case until all are done or the time is over."""
    end = time.monotonic() + arguments.seconds
    device = torch.device("cpu" if arguments.dry_run else arguments.device)
    config = tiny() if arguments.dry_run else load_config("runpod_1b")
    dtype, updates = torch.bfloat16, 1 if arguments.dry_run else UPDATES
    configure_torch(config.runtime, device)
    about: Json = {**machine(), "torch": torch.__version__, "device": str(device), "dtype": str(dtype)}
    if device.type == "cuda":
        about |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    length = config.sequence_length
    about |= {"row_tokens": length, "rows_per_update": ROWS, "updates": updates, "peak_flops": peak_flops(device)}
    wanted = plan(config.model.num_layers)
    outcome: Json = {**about, "cases": [], "not_reached": []}
    ranks = Distributed(0, 1, device, dtype)
    profiled = wanted[0], replace(wanted[0], micro_batch=8, **GAINS)
    for place, case in enumerate(wanted):
        outcome["not_reached"] = [name_case(c) for c in wanted[place:]]
        if time.monotonic() > end:
            break
        try:
            figures = measure(case, config, ranks, updates, is_profiled=case in profiled)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            figures = {"error": str(error).strip().splitlines()[0][:300]}
        free(device)
        outcome["cases"].append({"case": name_case(case), **figures})
        del outcome["not_reached"][0]
        write(outcome)
        print(json.dumps(outcome["cases"][-1]), file=sys.stderr, flush=True)
    write(outcome)
    return outcome


def table(outcome: Json) -> str:
    """Return the Markdown table: a row per case."""
    head = ("layers", "what differs from the baseline", "tokens/s", "ratio", "MFU strict / palm", "peak GiB")
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    baselines = {
        c["case"]["layers"]: c["tokens_per_second"]
        for c in outcome["cases"]
        if len(c["case"]) == 1 and "error" not in c
    }
    for case in outcome["cases"]:
        layers, *factors = case["case"].items()
        named = ", ".join(f"{name} {value}" for name, value in factors) or "the baseline"
        if "error" in case:
            lines.append(f"{layers[1]} | {named} | {case['error'][:60]} | | |")
            continue
        speed = case["tokens_per_second"]
        ratio = f"{speed / baselines[layers[1]]:.2f}" if layers[1] in baselines else ""
        lines.append(
            f"{layers[1]} | {named} | {speed:,} | {ratio} | {case['mfu_strict']:.1%} / {case['mfu_palm']:.1%} | "
            f"{case.get('peak_gib', '')}"
        )
    lines += [f"not reached: {case}" for case in outcome["not_reached"]]
    return "\n".join(f"| {line} |" if " | " in line else line for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=240.0, help="begin no case after so many")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--dry-run", action="store_true", help="a tiny model on the CPU")
    arguments = parser.parse_args()

    def write(outcome: Json) -> None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(outcome, indent=1) + "\n")

    print(table(run(arguments, write)))


if __name__ == "__main__":
    main()
