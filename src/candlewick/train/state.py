"""The counters and the random state of a run, written into every checkpoint as JSON.

With them, the weights, the optimizer's state and the rows read, a run goes on with the same bits.
"""

import json
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from candlewick.config import Steps
from candlewick.errors import CheckpointError


@dataclass(slots=True)
class TrainState:
    """Counters of a run."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # for `from_json`

    step: Steps = 0  # completed updates
    tokens: Steps = 0  # tokens read: rows times their length, whether or not a loss counts
    total_steps: Steps | None = None  # where the run ends; None until a time budget has become a number of steps
    train_seconds: float = 0.0  # seconds in training steps, evaluation and saving left out
    consecutive_nonfinite_steps: Annotated[Steps, Field(alias="nonfinite_in_a_row")] = 0
    skipped_steps: Steps = 0  # updates skipped because loss or gradients were not finite, over the whole run
    loss_scale: float = 2.0**15  # what the loss of the next update is multiplied by, in fp16 only
    loss_scale_clean_steps: Steps = 0  # updates since the loss scale last changed
    loss_sum: float = 0.0  # of the finite losses of the updates since the last row of metrics
    loss_count: Steps = 0  # the number of those losses
    loss_ema: float | None = None  # exponential moving average of the finite losses of all updates
    evaluated_step: Steps = 0  # the last step whose regular evaluation is done
    best_loss: float | None = None  # lowest validation loss at a regular evaluation
    best_steps: tuple[Steps, ...] = ()  # the steps of the best checkpoints that are kept, the best of them last
    before_decay: Steps | None = None  # the step of the checkpoint before the learning rate began to fall, if kept
    sound_step: Steps | None = None  # of the newest checkpoint whose training loss was below that of guessing

    def to_json(self) -> dict[str, Any]:
        """Return the counters for `state.json`."""
        return TypeAdapter(TrainState).dump_python(self, by_alias=True)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "TrainState":
        """Read what `to_json` returned. Raises CheckpointError when keys or types differ."""
        try:
            return TypeAdapter(cls).validate_json(json.dumps(raw, allow_nan=False))
        except ValueError as error:
            problem = str(error)
            if isinstance(error, ValidationError):
                first = error.errors(include_url=False, include_input=False)[0]
                problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise CheckpointError(
                f"state.json has other counters than this version: {problem}",
                "use the version of candlewick that wrote it",
            ) from None


def random_state(device: torch.device) -> dict[str, str]:
    """Return torch's random state, which dropout draws from, as hex by device type."""
    state = {"cpu": torch.get_rng_state().numpy().tobytes().hex()}
    if device.type == "cuda":  # pragma: cuda
        state["cuda"] = torch.cuda.get_rng_state(device).numpy().tobytes().hex()
    elif device.type == "mps":  # pragma: mps
        state["mps"] = torch.mps.get_rng_state().numpy().tobytes().hex()
    return state


def restore_random_state(state: dict[str, str], device: torch.device) -> None:
    """Set what `random_state` returned; what was not saved keeps its state. Raises CheckpointError."""
    try:
        for kind, text in state.items():
            tensor = torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8).clone()
            if kind == "cpu":
                torch.set_rng_state(tensor)
            elif kind == device.type == "cuda":  # pragma: cuda
                torch.cuda.set_rng_state(tensor, device)
            elif kind == device.type == "mps":  # pragma: mps
                torch.mps.set_rng_state(tensor)
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"state.json has a random state that cannot be set: {error}", "go on with the torch that wrote it"
        ) from None


def numerics_fingerprint(device: torch.device) -> dict[str, str | int]:
    """Return what rounding depends on besides the program: device, threads and instruction set of the CPU."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
