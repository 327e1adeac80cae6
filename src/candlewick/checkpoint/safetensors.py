"""Read files of the safetensors format; torch is loaded only when a tensor is asked for."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from candlewick.artifacts.manifest import read_bounded
from candlewick.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

MODEL = "model.safetensors"
INDEX = "model.safetensors.index.json"


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """Read all tensors of a file. Raises CheckpointError if it is missing, cut off or in another format."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise CheckpointError(f"{path} is no regular file", "get the file again")
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist", "give a folder with all weights in that file") from None
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file: {error}", "get the file again"
        ) from None


def read_model(folder: Path) -> "dict[str, Tensor]":
    """Read model.safetensors, or all files that an index names. Raises CheckpointError if one is damaged."""
    index = folder / INDEX
    if (folder / MODEL).is_file() or not index.is_file():
        return read_tensors(folder / MODEL)
    try:
        weight_map: dict[str, str] = json.loads(read_bounded(index))["weight_map"]
        files = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is not an index of weights: {error!r}", "get the file again") from None
    if unsafe := [name for name in files if not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name)]:
        raise CheckpointError(
            f"{index} names {unsafe[0][:80]!r}, which is not a file beside it", "get the file again"
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= read_tensors(folder / file)
    if missing := sorted(weight_map.keys() - tensors.keys()):
        raise CheckpointError(f"{folder} has no {missing[0]}, which its index names", "get the files again")
    return tensors
