"""Write one checkpoint: whole, durable, or not at all.

Order: room on the disk is checked; every file is written beside the final place, hashed on the way and fsynced;
the manifest is written last; the folder is renamed into place and the parent fsynced; the journal names it; it is
read back and verified; older checkpoints are removed after that. A save that fails changes nothing.

Tensors are streamed in the safetensors format, so that a file is hashed while it is written:

    8 bytes little-endian header length | JSON header, padded with spaces | the tensors' bytes in order

The header maps each name to {dtype, shape, data_offsets}. https://github.com/huggingface/safetensors#format
"""

import json
import logging
import os
import shutil
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from candlewick import __version__
from candlewick.artifacts.manifest import (
    FileEntry,
    Manifest,
    make_directory,
    publish,
    read_manifest,
    staging,
    write_durable,
)
from candlewick.checkpoint.huggingface import generation_config, to_hugging_face, to_saved
from candlewick.checkpoint.layout import KIND, OPTIMIZER, STATE, VERSION, checked_manifest, prune, step_folder
from candlewick.checkpoint.safetensors import MODEL
from candlewick.config import ModelConfig
from candlewick.errors import ArtifactError, MachineError
from candlewick.parallel.fsdp import full_tensor
from candlewick.tokenizer.bpe import Tokenizer

_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a checkpoint holds. Without optimizer and state it is a model, which training can start from."""

    step: int
    weights: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, torch.Tensor] | None
    state: Mapping[str, Any] | None
    model_config: ModelConfig
    vocab_size: int
    tokenizer: Tokenizer
    inputs: Mapping[str, str]  # ids of what the run reads: the token dataset and the tokenizer


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the model's parameters by name, whole, float32 and not copied, a tied one once."""
    return {name: full_tensor(parameter.detach()) for name, parameter in model.named_parameters()}


def save(directory: Path, snapshot: Snapshot, *, max_keep: int | None) -> Path:
    """Write `directory/step_*`, keep the newest `max_keep` (None: all), and return the new folder.

    Raises MachineError when the disk has no room for it, OSError when writing fails.
    """
    target = step_folder(directory, snapshot.step)
    _clear_the_way(target)
    manifest = write(target, snapshot)
    line = json.dumps({"checkpoint": target.name, "id": manifest.id, "time": time.time()})
    with (directory / "journal.jsonl").open("a", encoding="utf-8") as journal:
        journal.write(line + "\n")
        journal.flush()
        os.fsync(journal.fileno())
    checked_manifest(target)  # nothing older goes before the new one has been read back
    if max_keep is not None:
        prune(directory, target, max_keep)
    return target


def write(target: Path, snapshot: Snapshot) -> Manifest:
    """Write one checkpoint folder, whole or not at all. Raises what `save` raises, and ArtifactError."""
    make_directory(target.parent)
    weights = to_saved(snapshot.model_config, snapshot.weights)
    tensors = [*weights.values(), *(snapshot.optimizer or {}).values()]
    require_room(target.parent, sum(t.numel() * t.element_size() for t in tensors))
    with staging(target) as aside:
        files = [*_write_description(aside, snapshot), write_tensors(aside / MODEL, weights)]
        if snapshot.optimizer is not None and snapshot.state is not None:
            files.append(write_tensors(aside / OPTIMIZER, snapshot.optimizer))
            files.append(write_durable(aside / STATE, _json(snapshot.state)))
        config, details = snapshot.model_config.model_dump(mode="json"), {"step": snapshot.step}
        listed = tuple(sorted(files, key=lambda entry: entry.name))
        made = {"candlewick": __version__, "torch": torch.__version__, "time": time.time()}
        return publish(aside, target, Manifest(KIND, VERSION, snapshot.inputs, config, listed, details, made))


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


def _write_description(aside: Path, snapshot: Snapshot) -> Iterator[FileEntry]:
    tokenizer, config = snapshot.tokenizer, snapshot.model_config
    ids = (tokenizer.delimiter_id, tokenizer.padding_id, tokenizer.end_id)
    description = to_hugging_face(config, snapshot.vocab_size, *ids)
    generation = generation_config(config.max_position_embeddings, tokenizer.stop_ids, tokenizer.padding_id)
    yield write_durable(aside / "config.json", _json(description))
    yield write_durable(aside / "generation_config.json", _json(generation))
    yield from tokenizer.write(aside, model_max_length=config.max_position_embeddings)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode() + b"\n"


def require_room(directory: Path, tensor_bytes: int) -> None:
    """Raise MachineError if a checkpoint with tensors of so many bytes might not fit the disk of a folder."""
    needed = tensor_bytes * 3 // 2
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise MachineError(
            f"{directory} has {free >> 20} MiB free, a checkpoint needs {(needed >> 20) + 1} MiB",
            "free space there or set runtime.checkpoint.directory; earlier checkpoints are intact",
        )


def _clear_the_way(target: Path) -> None:
    """Put a folder whose manifest is no checkpoint's, or not readable any more, under another name."""
    try:
        if target.exists():
            read_manifest(target, KIND)
    except ArtifactError as error:
        aside = target.with_name(f"{target.name}.rejected-{time.time_ns()}")
        logger.warning("%s; the folder is kept as %s", error.problem, aside.name)
        target.rename(aside)
