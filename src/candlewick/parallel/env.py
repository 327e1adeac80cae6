"""Which process this is among the ranks of a run: the only reader of the launcher's environment.

A launcher such as torchrun sets RANK, WORLD_SIZE and LOCAL_RANK; without one there is a single rank.
"""

import os
from dataclasses import dataclass

from candlewick.errors import MachineError


@dataclass(frozen=True, slots=True)
class Ranks:
    """The number of this process, of all processes, and of this one on its machine."""

    rank: int
    world_size: int
    local_rank: int


def read_ranks() -> Ranks:
    """Read the launcher's environment. Raises MachineError for several ranks, or for what is no number."""
    names = {"rank": "RANK", "world_size": "WORLD_SIZE", "local_rank": "LOCAL_RANK"}
    texts = {field: os.environ.get(name, str(int(field == "world_size"))) for field, name in names.items()}
    for field, text in texts.items():
        if not text.isdecimal():
            raise MachineError(
                f"{names[field]}={text!r} is no number",
                "start the run by a launcher such as torchrun, or unset it",
            )
    ranks = Ranks(**{field: int(text) for field, text in texts.items()})
    if ranks.world_size != 1:
        raise MachineError(
            f"WORLD_SIZE={ranks.world_size}: training on several ranks is not in this version", "start one process"
        )
    return ranks


def request_deterministic_cublas() -> None:
    """Ask cuBLAS for a workspace with which its products are deterministic, unless the user has chosen one."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
