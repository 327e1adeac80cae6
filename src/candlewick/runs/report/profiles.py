"""The shipped profiles as a table: size, memory, length, and about how long each takes on this machine's CPU.

The time is that of the products alone, at the share of this CPU's speed that training reaches: a first idea, right
within a factor of three. A device that is not a CPU is faster.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from candlewick.config.load import load_config, profiles
from candlewick.data.rows.batches import BatchSchedule
from candlewick.train.budget import planned_steps
from candlewick.train.plan import flops_of_a_token, num_parameters

_SHARE = 0.3  # of the speed of large products, which training reached on the machines of benchmarks/README.md
_SIDE = 1024
_UNITS = ((365 * 86400, "years"), (86400, "days"), (3600, "hours"), (60, "minutes"), (0, "seconds"))
# bytes per parameter: weights, gradients and moments in float32
_STATE_BYTES = {"adam_w": 16, "adam": 16, "muon": 12, "lion": 12, "sgd": 12}


@dataclass(frozen=True, slots=True)
class Profile:
    """A shipped profile."""

    name: str
    parameters: int
    context: int  # tokens
    memory_bytes: int  # of weights, gradients and moments; activations come on top
    tokens: int | None  # that are trained on; None: a time ends it
    cpu_seconds: float  # about, here


def list_profiles() -> list[Profile]:
    """Return every shipped profile, the smallest first."""
    speed = _SHARE * measure_flops()
    return sorted((_describe(name, speed) for name in profiles()), key=lambda profile: profile.parameters)


def _describe(name: str, flops_per_second: float) -> Profile:
    config = load_config(name)
    length, rows = config.sequence_length, config.model.vocab_size or config.tokenizer.vocab_size
    batches = BatchSchedule.from_config(config.data, length, world_size=1)
    steps = planned_steps(config.scheduler, batches, sequence_length=length, epoch_rows=1)
    tokens = None if steps is None else batches.rows_after(steps) * length
    parameters = num_parameters(config.model, rows)
    seconds = config.scheduler.total_seconds
    if seconds is None:
        seconds = (tokens or 0) * flops_of_a_token(config.model, rows, length) / flops_per_second
    memory = parameters * _STATE_BYTES[config.optimizer.algorithm]
    return Profile(name, parameters, config.model.max_position_embeddings, memory, tokens, seconds)


def measure_flops() -> float:
    """Return the FLOPs per second of large float32 products on this CPU; takes a tenth of a second."""
    matrix = np.ones((_SIDE, _SIDE), np.float32)
    times: list[float] = []
    for _ in range(4):
        began = time.perf_counter()
        np.matmul(matrix, matrix)
        times.append(time.perf_counter() - began)
    return 2 * _SIDE**3 / min(times)


def format_profiles(rows: list[Profile]) -> str:
    """Return the table, 76 columns wide."""
    lines = [f"{'profile':<16}{'parameters':>11}{'context':>9}{'memory':>10}{'tokens':>10}   time on this CPU"]
    for row in rows:
        tokens = "" if row.tokens is None else _short(row.tokens)
        sizes = f"{_short(row.parameters):>11}{row.context:>9,}{_short(row.memory_bytes) + 'B':>10}{tokens:>10}"
        lines.append(
            f"{row.name:<16}{sizes}   {'' if row.tokens is None else 'about '}{_duration(row.cpu_seconds)}"
        )
    return "\n".join(lines)


def as_json(rows: list[Profile]) -> list[dict[str, Any]]:
    """Return the rows as JSON values."""
    return [asdict(row) for row in rows]


def _short(number: float) -> str:
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number:g} "


def _duration(seconds: float) -> str:
    factor, unit = next((factor, unit) for factor, unit in _UNITS if seconds >= 1.5 * factor)
    return f"{float(f'{seconds / (factor or 1):.2g}'):,.12g} {unit}"
