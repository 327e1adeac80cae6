"""The rank of this process, from the launcher's environment, which only this module reads.

A launcher such as torchrun sets RANK, WORLD_SIZE and LOCAL_RANK; without one there is a single rank.
"""

import os

from candlewick.errors import MachineError


def read_ranks() -> tuple[int, int, int]:
    """Return the rank of this process, the number of processes, and its rank on its machine.

    Raises MachineError for several processes, and for text that is not a number.
    """
    rank, world_size = _read_number("RANK", "0"), _read_number("WORLD_SIZE", "1")
    if world_size != 1:
        raise MachineError(
            f"WORLD_SIZE={world_size}: training on several ranks is not in this version", "start one process"
        )
    return rank, world_size, _read_number("LOCAL_RANK", "0")


def _read_number(name: str, default: str) -> int:
    text = os.environ.get(name, default)
    if not text.isdecimal():
        raise MachineError(f"{name}={text!r} is not a number", "use a launcher such as torchrun, or unset it")
    return int(text)


def request_deterministic_cublas() -> None:
    """Set the workspace with which cuBLAS is deterministic, unless the environment names one."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
