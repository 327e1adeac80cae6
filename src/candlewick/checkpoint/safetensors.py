"""Write the safetensors format as a stream, so that a file is hashed while it is written.

    8 bytes little-endian header length | JSON header, padded with spaces | the tensors' bytes in order

The header maps each name to {dtype, shape, data_offsets}. Reading is left to the `safetensors` library. A
shard along dimension 0 is a contiguous range of its tensor's bytes, so later many ranks can write one file.
Format: https://github.com/huggingface/safetensors#format
"""

import json
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from candlewick.artifacts.manifest import FileEntry, write_durable
from candlewick.errors import CheckpointError

MODEL = "model.safetensors"
INDEX = "model.safetensors.index.json"
_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> FileEntry:
    """Write floating-point tensors by name, fsynced; returns the manifest entry."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return write_durable(path, _chunks(text, tensors))


def _chunks(header: bytes, tensors: Mapping[str, torch.Tensor]) -> Iterator[bytes]:
    yield struct.pack("<Q", len(header)) + header
    for tensor in tensors.values():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data  # pyright: ignore[reportReturnType]  # a buffer, not copied


def read_tensors(path: Path, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Read all tensors of a file. Raises CheckpointError when it is missing or not a whole safetensors file."""
    try:
        with safe_open(path, framework="pt", device=device) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist", "give a folder with all weights in that file") from None
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file: {error}", "get the file again"
        ) from None


def read_model(folder: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a model: model.safetensors, or all the files that its index names.

    Raises CheckpointError for an index that is damaged, or names files elsewhere or tensors that are not there.
    """
    index = folder / INDEX
    if (folder / MODEL).is_file() or not index.is_file():
        return read_tensors(folder / MODEL)
    try:
        places: dict[str, str] = json.loads(index.read_bytes())["weight_map"]
        files = sorted(set(places.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is no index of weights: {error!r}", "get the file again") from None
    if unsafe := [name for name in files if not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name)]:
        raise CheckpointError(
            f"{index} names {unsafe[0][:80]!r}, which is no file beside it", "get the file again"
        )
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        tensors |= read_tensors(folder / file)
    if lacking := sorted(places.keys() - tensors.keys()):
        raise CheckpointError(f"{folder} has no {lacking[0]}, which its index names", "get the files again")
    return tensors
