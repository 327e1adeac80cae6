"""Read a checkpoint: to go on training, to start from its weights, or to compute with the model.

Everything read is first checked against the manifest's hashes; shapes come from the configuration, never
from the file. A plain Hugging Face folder of a class that `huggingface` reads has no manifest, and will do for
its weights; to compute with them it needs a tokenizer of ours.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from candlewick.artifacts.manifest import MANIFEST, canonical_json
from candlewick.checkpoint.huggingface import from_hugging_face, from_saved
from candlewick.checkpoint.layout import OPTIMIZER, STATE, checked_manifest, resolve
from candlewick.checkpoint.safetensors import MODEL, read_model, read_tensors
from candlewick.config import ModelConfig
from candlewick.errors import CheckpointError
from candlewick.hub import SCHEME, fetch_model
from candlewick.model.flops import model_size
from candlewick.model.transformer import Transformer
from candlewick.tokenizer.bpe import Tokenizer

STATE_VERSION = 1
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""What is fetched of a model on the Hub; nothing in it is code."""
_STATE_TYPES = {"counters": dict, "loader": dict, "random": dict, "config": dict, "threads": int}
_OTHER = "use another checkpoint"
_SAME = "use the configuration that the checkpoint was written with"


@dataclass(frozen=True, slots=True)
class Resumed:
    """What training needs to go on besides the weights."""

    folder: Path
    optimizer: dict[str, torch.Tensor]
    state: dict[str, Any]


def load_weights(model: nn.Module, tensors: dict[str, torch.Tensor], source: Path) -> None:
    """Copy tensors into the model's parameters by name.

    Raises CheckpointError for a missing or extra name, and for a shape that differs, with both shapes.
    """
    parameters = dict(model.named_parameters())
    if missing := sorted(parameters.keys() - tensors.keys()):
        raise CheckpointError(
            f"{source} lacks {len(missing)} tensors of this model, the first is {missing[0]}", _SAME
        )
    if extra := sorted(tensors.keys() - parameters.keys()):
        raise CheckpointError(
            f"{source} has {len(extra)} tensors that this model lacks, the first is {extra[0]}", _SAME
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            tensor = tensors[name]
            if tensor.shape != parameter.shape:
                raise CheckpointError(
                    f"{source}: {name} has shape {tuple(tensor.shape)}, "
                    f"the configuration says {tuple(parameter.shape)}",
                    _SAME,
                )
            if isinstance(parameter, DTensor):
                tensor = distribute_tensor(
                    tensor.to(parameter.device), parameter.device_mesh, parameter.placements
                )
            parameter.copy_(tensor)


def resume(model: Transformer, folder: Path) -> Resumed:
    """Fill `model` from a verified checkpoint and return the rest of its state. Raises CheckpointError."""
    checked_manifest(folder)
    state = read_state(folder)
    load_weights(model, from_saved(model.config, read_tensors(folder / MODEL)), folder / MODEL)
    return Resumed(folder, read_tensors(folder / OPTIMIZER), state)


def read_state(folder: Path) -> dict[str, Any]:
    """Read `state.json`. Raises CheckpointError if it cannot be read or a part is missing or malformed."""
    path = folder / STATE
    try:
        raw: object = json.loads(path.read_bytes())
        canonical_json(raw)  # refuses numbers that are not finite
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", _OTHER) from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} is not the state of a run", _OTHER)
    state = cast(dict[str, Any], raw)
    if state.get("version") != STATE_VERSION:
        raise CheckpointError(
            f"{path} has format version {state.get('version')}, this program reads {STATE_VERSION}",
            "use the version of candlewick that wrote it",
        )
    if missing := sorted(key for key, kind in _STATE_TYPES.items() if not isinstance(state.get(key), kind)):
        raise CheckpointError(f"{path} lacks {', '.join(missing)} or has them in another form", _OTHER)
    return state


def initialize_from(model: Transformer, path: Path) -> None:
    """Fill `model` with the weights of a checkpoint, run folder or Hugging Face folder of the same shape.

    Vocabulary rows that the model has more get the mean of the saved ones. Raises CheckpointError.
    """
    folder = resolve(path)
    _, vocab_size, tensors = saved_model(folder)
    if (more := model.vocab_size - vocab_size) < 0:
        raise CheckpointError(
            f"{folder} has {vocab_size} vocabulary rows, the model {model.vocab_size}",
            "leave model.vocab_size null, or set it to at least as many",
        )
    for name in ("model.embed_tokens.weight", "lm_head.weight") if more else ():
        if name in tensors:
            mean = tensors[name].mean(dim=0, keepdim=True, dtype=torch.float32).to(tensors[name].dtype)
            tensors[name] = torch.cat((tensors[name], mean.expand(more, -1)))
    load_weights(model, tensors, folder / MODEL)


def load_for_inference(path: Path, device: torch.device) -> tuple[Transformer, Tokenizer]:
    """Return the model, in evaluation mode on `device`, and the tokenizer of a checkpoint or run folder."""
    folder = resolve(path)
    config, vocab_size, tensors = saved_model(folder)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model {vocab_size} rows",
            "use the tokenizer that the model was trained with",
        )
    with torch.device("meta"):
        model = Transformer(config, vocab_size)
    model.to_empty(device=device)
    model.init_buffers()
    load_weights(model, tensors, folder / MODEL)
    return model.eval(), tokenizer


def open_start(start: str) -> Path:
    """Return the checkpoint folder that a run starts from; of hf://OWNER/NAME@REVISION, after fetching it.

    Raises CheckpointError, DataError, EnvironmentFault.
    """
    return resolve(fetch_model(start, MODEL_FILES) if start.startswith(SCHEME) else Path(start))


def saved_model(folder: Path) -> tuple[ModelConfig, int, dict[str, torch.Tensor]]:
    """Return the shape, the vocabulary rows and the weights of a verified folder, by our names.

    Raises CheckpointError.
    """
    if (folder / MANIFEST).is_file():
        checked_manifest(folder, without=(OPTIMIZER, STATE))
    config, vocab_size = from_hugging_face(folder / "config.json")
    saved = {name: t for name, t in read_model(folder).items() if not name.endswith("rotary_emb.inv_freq")}
    tensors = from_saved(config, saved)
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    expected, found = model_size(config, vocab_size).total, sum(tensor.numel() for tensor in tensors.values())
    if expected > found:  # before anything of the claimed size is made
        raise CheckpointError(
            f"{folder / MODEL} holds {found:,} numbers, the model of {folder / 'config.json'} has {expected:,}",
            _SAME,
        )
    return config, vocab_size, tensors
