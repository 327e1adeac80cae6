"""Read checkpoints of transformer_candle: weights and AdamW's moments under Candlewick's names.

    step_000000001500_global_000000001500/
        model.safetensors    embedding.weight, which is the head too; final_norm.weight
                             blocks.{i}.{norm_attn,norm_mlp,qkv,out_proj,mlp.up_proj,mlp.down_proj}
        optimizer.json       AdamW's moments as text, and float32 masters where the weights are stored smaller
        manifest.json        version 1: name, bytes and sha256 of the files; progress

The block is Candlewick's with `mlp: silu`, biases in all projections, and eps 1e-5 in norms. qkv packs three
slices. transformer_candle rotates neighboring channels (0, 1), (2, 3), ...; Candlewick rotates channels i and
i + d/2. So the rows of q and k, their biases and moments are reordered in each head, which changes no dot product.
The folder does not say how many heads there are: the run's configuration does.

`optimizer.json` takes some 46 bytes per parameter, so it is read one parameter at a time.
"""

import json
import logging
import mmap
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from candlewick.artifacts.manifest import (
    file_sha256,
    read_bounded,
)
from candlewick.checkpoint.layout import list_checkpoints
from candlewick.checkpoint.safetensors import read_tensors
from candlewick.config import ModelConfig
from candlewick.errors import CheckpointError

OPTIMIZER_JSON = "optimizer.json"
_STEP_FOLDER = re.compile(r"step_\d+_global_\d+")
_RENAMED = {
    r"embedding\.weight": "model.embed_tokens.weight",
    r"final_norm\.weight": "model.norm.weight",
    r"blocks\.(\d+)\.norm_attn\.weight": r"model.layers.\1.input_layernorm.weight",
    r"blocks\.(\d+)\.norm_mlp\.weight": r"model.layers.\1.post_attention_layernorm.weight",
    r"blocks\.(\d+)\.out_proj\.(weight|bias)": r"model.layers.\1.self_attn.o_proj.\2",
    r"blocks\.(\d+)\.mlp\.(up|down)_proj\.(weight|bias)": r"model.layers.\1.mlp.\2_proj.\3",
}
_NORM = re.compile(r"blocks\.\d+\.norm_attn\.weight")  # one for each block
_QKV = re.compile(r"blocks\.(\d+)\.qkv\.(weight|bias)")
_COUNTER = re.compile(r"\.linear_\d+(?=\.(?:weight|bias)$)")  # in names of early builds
# sizes that a configuration of transformer_candle has by default; the weights may have others
_RUST_DEFAULTS = {"hidden_size": 4096, "num_layers": 32, "intermediate_size": 4 * 4096}
_MOMENTS = {"first_moment": "exp_avg", "second_moment": "exp_avg_sq"}
_FIELD = re.compile(rb'"(name|shape|first_moment|second_moment|master|step)"\s*:\s*')

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CandleCheckpoint:
    """A validated folder, with its tensors under transformer_candle's names."""

    folder: Path
    tensors: Mapping[str, Tensor]
    step: int
    """Completed updates."""

    @property
    def shape(self) -> dict[str, int]:
        """Settings of ModelConfig that follow from the tensors."""
        rows, width = self.tensors["embedding.weight"].shape
        layers = sum(_NORM.fullmatch(name) is not None for name in self.tensors)
        inner = self.tensors["blocks.0.mlp.up_proj.weight"].shape[0]
        return {"vocab_size": rows, "hidden_size": width, "num_layers": layers, "intermediate_size": inner}


def open_candle(path: Path, *, weights_only: bool = False) -> CandleCheckpoint:
    """Read the weights of a checkpoint: of one `step_*` folder, or of the newest valid one in a folder of them.

    With `weights_only` a folder with nothing but model.safetensors will do. Raises CheckpointError.
    """
    if weights_only and (path / "model.safetensors").is_file() and not (path / "manifest.json").is_file():
        return CandleCheckpoint(path, _read_tensors(path), 0)
    if _STEP_FOLDER.fullmatch(path.name) or (path / "model.safetensors").is_file():
        return _open(path, weights_only=weights_only)
    steps = _steps(path)
    for folder in reversed(steps):
        try:
            return _open(folder, weights_only=weights_only)
        except CheckpointError as error:
            logger.warning("%s is rejected: %s", folder.name, error.problem)
    count = f"{len(steps)} rejected" if steps else "none there"
    raise CheckpointError(
        f"{path} holds no complete checkpoint of transformer_candle ({count})",
        "give a step_* folder, or the folder that has them",
    )


def _damaged(problem: str) -> CheckpointError:
    return CheckpointError(problem, "copy the checkpoint again, or import an older one")


def holds_candle(path: Path) -> bool:
    """Return whether a folder is a checkpoint of transformer_candle, or it or its `checkpoints` holds some."""
    return _STEP_FOLDER.fullmatch(path.name) is not None or bool(_steps(path))


def require_imported(directory: Path) -> None:
    """Raise CheckpointError for a folder that holds checkpoints of transformer_candle alone."""
    if holds_candle(directory) and not list_checkpoints(directory):
        raise CheckpointError(f"{directory} has no checkpoint of candlewick", "import it", directory)


def _steps(path: Path) -> list[Path]:
    parents = [folder for folder in (path, path / "checkpoints") if folder.is_dir()]
    return sorted(f for parent in parents for f in parent.iterdir() if _STEP_FOLDER.fullmatch(f.name))


def _open(folder: Path, *, weights_only: bool) -> CandleCheckpoint:
    path = folder / "manifest.json"
    try:
        raw: dict[str, Any] = json.loads(read_bounded(path))
        if raw["version"] != 1:
            raise _damaged(f"{path} has version {raw['version']}, transformer_candle wrote 1")
        files = [raw["model"], raw["optimizer"], *(raw[part] for part in ("scheduler", "scaler") if raw.get(part))]
        entries = [(folder / Path(e["filename"]).name, int(e["bytes"]), str(e["sha256"])) for e in files]
        step = int(raw["progress"]["optimizer_step"])
        if not 0 <= step < 10**9:
            raise ValueError(f"optimizer_step {step}")
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise _damaged(f"{path} is not a manifest of transformer_candle: {error!r}") from None
    for file, size, sha256 in entries[: 1 if weights_only else None]:  # links are fine: the Hub's cache has them
        if not file.is_file():
            raise _damaged(f"{file} is missing")
        if file.stat().st_size != size or file_sha256(file) != sha256:
            raise _damaged(f"{file} is not what its manifest says: cut short or changed")
    return CandleCheckpoint(folder, _read_tensors(folder), step)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the weights, and check every name and shape."""
    path = folder / "model.safetensors"
    tensors = {_COUNTER.sub("", name): tensor for name, tensor in read_tensors(path).items()}
    if norms := [name for name in tensors if re.search(r"norm\w*\.bias$", name)]:
        raise CheckpointError(
            f"{path} has {norms[0]}: a model with LayerNorm, which candlewick does not have",
            "only RMSNorm is read",
        )
    if missing := {"embedding.weight", "blocks.0.mlp.up_proj.weight", "final_norm.weight"} - tensors.keys():
        raise CheckpointError(
            f"{path} has no {min(missing)}: it is not a model of transformer_candle", "try `import hf`"
        )
    if any(tensors[name].dim() != 2 for name in ("embedding.weight", "blocks.0.mlp.up_proj.weight")):
        raise _damaged(f"{path} holds no matrices where transformer_candle has them")
    expected = _shapes(CandleCheckpoint(folder, tensors, 0).shape)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | shapes.keys()):
        if shapes.get(name) != expected.get(name):
            actual, right = shapes.get(name, "nothing"), expected.get(name, "nothing")
            raise _damaged(f"{path}: {name} is {actual}, a model of its shape has {right}")
    return tensors


def _shapes(shape: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of transformer_candle's tensors by name."""
    width, inner = shape["hidden_size"], shape["intermediate_size"]
    products = {"qkv": (3 * width, width), "out_proj": (width, width)}
    products |= {"mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner)}
    block: dict[str, tuple[int, ...]] = {"norm_attn.weight": (width,), "norm_mlp.weight": (width,)}
    for name, (rows, columns) in products.items():
        block |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    blocks = {f"blocks.{i}.{name}": size for i in range(shape["num_layers"]) for name, size in block.items()}
    return {"embedding.weight": (shape["vocab_size"], width), "final_norm.weight": (width,), **blocks}


def model_config(checkpoint: CandleCheckpoint, config: ModelConfig | None, heads: int | None) -> ModelConfig:
    """Return the model's settings: sizes from the tensors; heads, context and others from the run's settings.

    Raises CheckpointError if the number of heads is unknown, or the settings contradict the tensors.
    """
    shape, width = checkpoint.shape, checkpoint.shape["hidden_size"]
    settings = {} if config is None else {name: getattr(config, name) for name in config.model_fields_set}
    heads = heads or settings.get("num_attention_heads")
    if heads is None:
        likely = max(1, width // (32 if width == 256 else 64))
        raise CheckpointError(
            f"{checkpoint.folder} does not say how many heads the model has",
            "give the run's --config, or --heads N: transformer_candle's profiles had heads of 64, of 32 with 256 "
            f"channels, which makes {likely}",
        )
    if settings.get("num_attention_heads", heads) != heads:
        raise CheckpointError(f"--heads {heads} and model.num_attention_heads differ", "leave --heads out")
    for name, size in shape.items():
        if settings.get(name) not in (None, size, _RUST_DEFAULTS.get(name)):
            raise CheckpointError(
                f"the settings say model.{name}={settings[name]}, the weights in {checkpoint.folder} say {size}",
                "give the configuration that the run was made with",
            )
    if width % heads or (width // heads) % 2:
        raise CheckpointError(
            f"{heads} heads do not divide {width} channels into even parts", "give the right --heads"
        )
    for name, value in (("num_key_value_heads", heads), ("rope_theta", 10_000.0)):
        if settings.get(name, value) != value:
            logger.warning(
                "model.%s=%s: transformer_candle ignored it and trained with %s", name, settings[name], value
            )
    kept = ("max_position_embeddings", "rope_mode", "attn_dropout", "residual_dropout")
    block = {"mlp": "silu", "qk_norm": False, "attention_bias": True, "rms_norm_eps": 1e-5}
    kept_settings = {name: settings[name] for name in kept if name in settings}
    return ModelConfig.model_validate({**shape, **kept_settings, "num_attention_heads": heads, **block})


def to_native(name: str, tensor: Tensor, heads: int) -> dict[str, Tensor]:
    """Return a tensor of transformer_candle, or its moment, under Candlewick's names and order of channels."""
    if packed := _QKV.fullmatch(name):
        query, key, value = tensor.chunk(3)
        parts = {"q": _half_split(query, heads), "k": _half_split(key, heads), "v": value}
        return {
            f"model.layers.{packed[1]}.self_attn.{part}_proj.{packed[2]}": rows for part, rows in parts.items()
        }
    target = next(re.sub(pattern, new, name) for pattern, new in _RENAMED.items() if re.fullmatch(pattern, name))
    return {target: tensor}


def _half_split(rows: Tensor, heads: int) -> Tensor:
    """Reorder the rows of each head: the even ones, then the odd ones."""
    pairs = rows.unflatten(0, (heads, -1, 2))  # (H, d/2, 2, ...)
    return pairs.transpose(1, 2).flatten(0, 2).contiguous()  # (H d, ...)


def native_weights(checkpoint: CandleCheckpoint, heads: int) -> dict[str, Tensor]:
    """Return the weights under Candlewick's names, in float32."""
    parts = (to_native(name, tensor, heads) for name, tensor in checkpoint.tensors.items())
    return {name: part.float() for tensors in parts for name, part in tensors.items()}


def native_state(checkpoint: CandleCheckpoint, heads: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return AdamW's state under Candlewick's names, and the float32 masters of weights that are stored smaller.

    Raises CheckpointError if the state is incomplete or of another model.
    """
    path = checkpoint.folder / OPTIMIZER_JSON
    state, masters = dict[str, Tensor](), dict[str, Tensor]()
    steps, parameters = read_optimizer(path)
    for raw_name, values in parameters:
        name = _COUNTER.sub("", raw_name)
        if name not in checkpoint.tensors:
            raise _damaged(f"{path} has {raw_name}, which the weights do not have")
        shape = checkpoint.tensors[name].shape
        for kind, flat in values.items():
            if flat.numel() != shape.numel():
                raise _damaged(f"{path}: {kind} of {raw_name} has {flat.numel()} numbers, not {shape.numel()}")
            for target, part in to_native(name, flat.reshape(shape), heads).items():
                if kind == "master":
                    masters[target] = part
                else:
                    state[f"{target}.{_MOMENTS[kind]}"] = part
                    state[f"{target}.step"] = torch.tensor(float(steps))
    targets = {target for name, t in checkpoint.tensors.items() for target in to_native(name, t, heads)}
    if missing := sorted(t for t in targets if any(f"{t}.{moment}" not in state for moment in _MOMENTS.values())):
        raise _damaged(f"{path} has no moments of {len(missing)} parameters, {missing[0]} for one")
    return state, masters


def read_optimizer(path: Path) -> tuple[int, Iterator[tuple[str, dict[str, Tensor]]]]:
    """Return the number of updates, and an iterator of (name, float32 values by kind), one parameter at a time.

    Kinds are first_moment, second_moment, and master if there is one. Raises CheckpointError.
    """
    try:
        with path.open("rb") as file:
            text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise _damaged(f"{path} cannot be read: {error}") from None
    match = _FIELD.search(text)
    digits = re.compile(rb"\d+").match(text, match.end()) if match and match[1] == b"step" else None
    if match is None or digits is None:
        raise _damaged(f"{path} does not begin with the number of updates")
    return int(digits[0]), _parameters(path, text, digits.end())


def _parameters(path: Path, text: mmap.mmap, position: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    name, values = "", dict[str, Tensor]()
    while (match := _FIELD.search(text, position)) is not None:
        kind, position = match[1].decode(), match.end()
        if kind == "name":
            if name:
                yield name, values
            end = text.find(b'"', position + 1)
            name, values = text[position + 1 : end].decode(errors="replace"), {}
            position = end
        elif text[position : position + 1] == b"[":
            end = text.find(b"]", position)
            if end < 0:
                raise _damaged(f"{path} ends inside of {kind} of {name}: it is cut short")
            if kind != "shape":
                values[kind] = _numbers(path, text[position + 1 : end], f"{kind} of {name}")
            position = end
    if name:
        yield name, values
    if text[-64:].rstrip()[-1:] != b"}":
        raise _damaged(f"{path} has no end: it is cut short")


def _numbers(path: Path, text: bytes, name: str) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy warns when it stops at text that is not a number
        try:
            return torch.from_numpy(np.fromstring(text, np.float64, sep=",").astype(np.float32))
        except (DeprecationWarning, RuntimeWarning, ValueError):
            bad = "null, which stands for what is not finite" if b"null" in text else "something else"
            raise _damaged(f"{path}: {name} holds {bad} among its numbers") from None
