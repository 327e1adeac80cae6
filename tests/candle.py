"""Checkpoints as transformer_candle wrote them, and its model in float64: written from the audit alone.

Nothing here uses code of ours. `Candle` makes random weights and moments of a shape; `write` puts them on the disk
with the pretty JSON of serde; `forward` is the reference of transformer_candle's mathematics.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor


@dataclass
class Candle:
    """A model of transformer_candle: V rows, H channels, L layers, F inner, AdamW's state after `step` updates."""

    rows: int
    width: int
    layers: int
    inner: int
    heads: int
    step: int = 7
    seed: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)
    first: dict[str, Tensor] = field(default_factory=dict)
    second: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)

        def random(*shape: int, scale: float = 1.0) -> Tensor:
            return torch.randn(*shape, generator=generator) * scale

        self.tensors["embedding.weight"] = random(self.rows, self.width, scale=0.3)
        for i in range(self.layers):
            products = {
                "qkv": (3 * self.width, self.width),
                "out_proj": (self.width, self.width),
                "mlp.up_proj": (self.inner, self.width),
                "mlp.down_proj": (self.width, self.inner),
            }
            for name, (out, into) in products.items():
                self.tensors[f"blocks.{i}.{name}.weight"] = random(out, into, scale=into**-0.5)
                self.tensors[f"blocks.{i}.{name}.bias"] = random(out, scale=0.1)
            for name in ("norm_attn", "norm_mlp"):
                self.tensors[f"blocks.{i}.{name}.weight"] = 1 + random(self.width, scale=0.1)
        self.tensors["final_norm.weight"] = 1 + random(self.width, scale=0.1)
        for name, tensor in self.tensors.items():  # moments as AdamW makes them of `step` gradients
            self.first[name], self.second[name] = torch.zeros_like(tensor), torch.zeros_like(tensor)
            for _ in range(self.step):
                gradient = random(*tensor.shape, scale=1e-3)
                self.first[name] = 0.9 * self.first[name] + 0.1 * gradient
                self.second[name] = 0.95 * self.second[name] + 0.05 * gradient**2

    def write(self, directory: Path, *, masters: bool = False, pretty: bool = True, **manifest: Any) -> Path:
        """Write `step_*_global_*` into a directory and return it. With masters, the weights are stored in bf16."""
        folder = directory / f"step_{self.step:012}_global_{self.step:012}"
        folder.mkdir(parents=True)
        stored = {name: t.bfloat16() if masters else t for name, t in self.tensors.items()}
        save_file({name: t.contiguous() for name, t in stored.items()}, folder / "model.safetensors")
        parameters = [
            {
                "name": name,
                "shape": list(tensor.shape),
                "first_moment": _floats(self.first[name]),
                "second_moment": _floats(self.second[name]),
                "master": _floats(tensor) if masters else None,
            }
            for name, tensor in self.tensors.items()
        ]
        optimizer = {"step": self.step, "parameters": parameters}
        (folder / "optimizer.json").write_text(json.dumps(optimizer, indent=2 if pretty else None))
        scheduler = {"LinearWarmupCosine": {"step": self.step, "current_lr": 1e-4}}
        (folder / "scheduler.json").write_text(json.dumps(scheduler, indent=2))
        (folder / "scaler.json").write_text('"Disabled"')
        self.seal(folder, **manifest)
        return folder

    def seal(self, folder: Path, **changes: Any) -> None:
        """Write the manifest of what lies in a folder."""
        files = {"model": "model.safetensors", "optimizer": "optimizer.json", "scheduler": "scheduler.json"}
        entries = {part: _entry(folder / name) for part, name in {**files, "scaler": "scaler.json"}.items()}
        progress = {
            "optimizer_step": self.step,
            "global_step": self.step,
            "epoch": 0,
            "micro_batch_index": 0,
            "micro_batches_per_step": 1,
        }
        manifest = {
            "version": 1,
            "created_unix_timestamp": 1,
            "config_sha256": "0" * 64,
            **entries,
            "progress": progress,
            "rng": {"master_seed": 42},
            **changes,
        }
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))


def _floats(tensor: Tensor) -> list[float]:
    """Return float32 numbers as the shortest text that reads back as them, which is what serde writes."""
    return [float(str(value)) for value in tensor.flatten().numpy()]


def _entry(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"filename": path.name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def forward(ids: Tensor, parameters: dict[str, Tensor], layers: int, heads: int) -> Tensor:
    """Return the logits of transformer_candle's model; compute in the dtype of the parameters."""
    table = parameters["embedding.weight"]
    x = table[ids]
    batch, length, width = x.shape
    size = width // heads
    angles = torch.arange(length, dtype=torch.float64)[:, None] * 10000.0 ** (
        -torch.arange(0, size, 2, dtype=torch.float64) / size
    )
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight

    def turn(t: Tensor) -> Tensor:
        even, odd = t[..., 0::2], t[..., 1::2]
        return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)

    for i in range(layers):

        def of(name: str, i: int = i) -> Tensor:
            return parameters[f"blocks.{i}.{name}"]

        packed = F.linear(norm(x, of("norm_attn.weight")), of("qkv.weight"), of("qkv.bias"))
        q, k, v = (part.view(batch, length, heads, size).transpose(1, 2) for part in packed.split(width, -1))
        scores = turn(q) @ turn(k).transpose(-1, -2) / size**0.5
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
        mixed = mixed.transpose(1, 2).reshape(batch, length, width)
        x = x + F.linear(mixed, of("out_proj.weight"), of("out_proj.bias"))
        up = F.silu(F.linear(norm(x, of("norm_mlp.weight")), of("mlp.up_proj.weight"), of("mlp.up_proj.bias")))
        x = x + F.linear(up, of("mlp.down_proj.weight"), of("mlp.down_proj.bias"))
    return norm(x, parameters["final_norm.weight"]) @ table.T
