"""Write one checkpoint completely and durably, or not at all.

Order: free space is checked; every file is written into a temporary folder beside the target, hashed and fsynced;
the manifest is written last; the folder is renamed to the target and the parent fsynced; the journal gets a line;
the folder is read back and verified. A save that fails changes nothing. Older checkpoints are removed after it.

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
from candlewick.checkpoint.generation import generation_config
from candlewick.checkpoint.huggingface import to_hf_config, to_hf_tensors
from candlewick.checkpoint.layout import KIND, OPTIMIZER, STATE, VERSION, step_folder, verify_checkpoint
from candlewick.checkpoint.safetensors import MODEL
from candlewick.config import ModelConfig
from candlewick.errors import ArtifactError, CheckpointError, MachineError, RunDiverged
from candlewick.parallel.fsdp import full_tensor
from candlewick.tokenizer.bpe import Tokenizer

_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The content of a checkpoint. Without optimizer and state it is a model that training can start from."""

    step: int
    weights: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, torch.Tensor] | None
    state: Mapping[str, Any] | None
    model_config: ModelConfig
    vocab_size: int
    tokenizer: Tokenizer
    inputs: Mapping[str, str]  # ids of the artifacts that the run reads: token dataset and tokenizer
    run: str | None = None  # the id of the run


def full_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the model's parameters by name, unsharded, float32 and not copied; a tied parameter once."""
    return {name: full_tensor(parameter.detach()) for name, parameter in model.named_parameters()}


def require_finite(snapshot: Snapshot) -> None:
    """Raise RunDiverged if a weight or a number of the optimizer's state is not finite: no run could go on."""
    for name, tensor in {**snapshot.weights, **(snapshot.optimizer or {})}.items():
        if not torch.isfinite(tensor).all():
            raise RunDiverged(
                f"{name} is not finite at step {snapshot.step}, which is not saved; the checkpoints before it are",
                "resume with a lower optimizer.learning_rate or a longer scheduler.warmup_steps",
            )


def save(directory: Path, snapshot: Snapshot) -> Path:
    """Write `directory/step_*` and return the new folder.

    Raises MachineError for too little disk space, OSError, CheckpointError if the files differ when read back, or
    if another run's checkpoint of that step is there.
    """
    target = step_folder(directory, snapshot.step)
    _move_invalid_aside(target)
    if target.exists() and (run := read_manifest(target).provenance.get("run")) not in (None, snapshot.run):
        raise CheckpointError(
            f"{target} belongs to run {run}, so run {snapshot.run} does not replace it",
            "set runtime.checkpoint.directory to a folder of its own",
        )
    manifest = write_checkpoint(target, snapshot)
    line = json.dumps({"checkpoint": target.name, "id": manifest.id, "time": time.time()})
    with (directory / "journal.jsonl").open("a", encoding="utf-8") as journal:
        journal.write(line + "\n")
        journal.flush()
        os.fsync(journal.fileno())
    verify_checkpoint(target)  # before an older checkpoint is removed
    return target


def write_checkpoint(target: Path, snapshot: Snapshot) -> Manifest:
    """Write one checkpoint folder. Raises MachineError, OSError, ArtifactError for a target of another kind."""
    make_directory(target.parent)
    weights = to_hf_tensors(snapshot.model_config, snapshot.weights)
    tensors = [*weights.values(), *(snapshot.optimizer or {}).values()]
    require_room(target.parent, sum(t.numel() * t.element_size() for t in tensors))
    with staging(target) as aside:
        files = [*_write_hf_files(aside, snapshot), write_tensors(aside / MODEL, weights)]
        if snapshot.optimizer is not None and snapshot.state is not None:
            (aside / OPTIMIZER).parent.mkdir()
            files.append(write_tensors(aside / OPTIMIZER, snapshot.optimizer, OPTIMIZER))
            files.append(write_durable(aside / STATE, _json(snapshot.state), STATE))
        config, details = snapshot.model_config.model_dump(mode="json"), {"step": snapshot.step}
        entries = tuple(sorted(files, key=lambda entry: entry.name))
        provenance = {"candlewick": __version__, "torch": torch.__version__, "time": time.time()}
        provenance |= {} if snapshot.run is None else {"run": snapshot.run}
        manifest = Manifest(KIND, VERSION, snapshot.inputs, config, entries, details, provenance)
        return publish(aside, target, manifest)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], listed_as: str | None = None) -> FileEntry:
    """Write floating-point tensors in the safetensors format, fsynced; return the manifest entry.

    `listed_as` is the file's name in the manifest, if it lies in a subfolder.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return write_durable(path, _file_bytes(text, tensors), listed_as)


def _file_bytes(header: bytes, tensors: Mapping[str, torch.Tensor]) -> Iterator[bytes]:
    yield struct.pack("<Q", len(header)) + header
    for tensor in tensors.values():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data  # pyright: ignore[reportReturnType]  # a buffer, not copied


def _write_hf_files(aside: Path, snapshot: Snapshot) -> Iterator[FileEntry]:
    tokenizer, config = snapshot.tokenizer, snapshot.model_config
    ids = (tokenizer.delimiter_id, tokenizer.padding_id, tokenizer.end_id)
    config_json = to_hf_config(config, snapshot.vocab_size, *ids)
    unused_ids = range(tokenizer.vocab_size, snapshot.vocab_size)
    stop_ids, inherited = tokenizer.stop_ids, tokenizer.generation
    generation = generation_config(stop_ids, tokenizer.padding_id, unused_ids, inherited)
    yield write_durable(aside / "config.json", _json(config_json))
    yield write_durable(aside / "generation_config.json", _json(generation))
    yield from tokenizer.write(aside, model_max_length=config.max_position_embeddings)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode() + b"\n"


def require_room(directory: Path, tensor_bytes: int, count: int = 1) -> None:
    """Raise MachineError if the disk of a folder, which may not exist yet, has no room for so many checkpoints.

    One of them counts 1.5 times.
    """
    needed = tensor_bytes * (2 * count + 1) // 2
    free = shutil.disk_usage(
        next(path for path in (directory, *directory.absolute().parents) if path.is_dir())
    ).free
    if free < needed:
        raise MachineError(
            f"{directory} has {free >> 20} MiB free, checkpoints need {(needed >> 20) + 1} MiB",
            "free space there, lower runtime.checkpoint.max_keep, or set runtime.checkpoint.directory; earlier "
            "checkpoints are intact",
        )


def _move_invalid_aside(target: Path) -> None:
    """Rename a target folder whose manifest cannot be read or is not that of a checkpoint."""
    try:
        if target.exists():
            read_manifest(target, KIND)
    except ArtifactError as error:
        aside = target.with_name(f"{target.name}.rejected-{time.time_ns()}")
        logger.warning("%s; the folder is kept as %s", error.problem, aside.name)
        target.rename(aside)
