"""One training run of nanoGPT for a given time, and its bits per byte over the whole validation split.

Called by `nanogpt.py`, in a process of its own. Model and optimizer are nanoGPT's, imported from its folder;
the loop does what its train.py does on one CPU (random windows, gradient clipping, warm-up and cosine), with two
changes in its favor: the schedule follows the clock, so it always ends exactly where the time ends, and
warm-up of the process (allocation, compilation) is not counted.
"""

import argparse
import contextlib
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

BETAS, WEIGHT_DECAY, GRAD_CLIP = (0.9, 0.99), 0.1, 1.0  # train.py, and config/train_shakespeare_char.py for beta2
WARMUP_SHARE, MIN_LR_SHARE = 0.03, 0.1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nanogpt", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.bin, val.bin, data.json")
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args()
    sys.path.insert(0, str(args.nanogpt))
    with contextlib.redirect_stdout(sys.stderr):
        result = run(args.data, args.settings, args.seconds, args.seed)
    print(json.dumps(result))


def run(data: Path, settings: dict, seconds: float, seed: int) -> dict:
    """Train for `seconds`, evaluate, and return the figures."""
    facts = json.loads((data / "data.json").read_text())
    train = np.memmap(data / "train.bin", dtype=np.uint16, mode="r")
    torch.manual_seed(seed)
    model = build_model(settings, facts["vocab_size"])
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    compiled = torch.compile(model) if settings["compile"] else model
    optimizer = build_optimizer(model, settings)
    for _ in range(3):
        step(compiled, optimizer, *get_batch(train, settings))
    model.load_state_dict(initial)
    optimizer = build_optimizer(model, settings)

    steps, began = 0, time.monotonic()
    while (elapsed := time.monotonic() - began) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(elapsed / seconds, settings["learning_rate"])
        step(compiled, optimizer, *get_batch(train, settings))
        steps += 1
    loss = evaluate(model, np.memmap(data / "val.bin", dtype=np.uint16, mode="r"), settings)
    return {
        "bits_per_byte": loss / math.log(2) * facts["validation_tokens"] / facts["validation_bytes"],
        "loss": loss,
        "steps": steps,
        "tokens": steps * settings["rows"] * settings["block_size"],
        "train_seconds": elapsed,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def build_model(settings: dict, vocab_size: int) -> torch.nn.Module:
    from model import GPT, GPTConfig  # pyright: ignore[reportMissingImports]  # nanoGPT's model.py

    shape = {name: settings[name] for name in ("block_size", "n_layer", "n_head", "n_embd")}
    return GPT(GPTConfig(vocab_size=-(-vocab_size // 64) * 64, dropout=0.0, bias=False, **shape))


def build_optimizer(model: Any, settings: dict) -> torch.optim.Optimizer:
    # nanoGPT takes torch's fused AdamW when told that the device is CUDA; it works on the CPU too, and faster
    kind = "cuda" if settings["fused"] else "cpu"
    return model.configure_optimizers(WEIGHT_DECAY, settings["learning_rate"], BETAS, kind)


def get_batch(tokens: np.ndarray, settings: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows at random places and their targets, (rows, block_size) each, as train.py draws them."""
    length = settings["block_size"]
    places = torch.randint(len(tokens) - length, (settings["rows"],)).tolist()
    rows = torch.from_numpy(np.stack([tokens[i : i + length + 1].astype(np.int64) for i in places]))
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def step(model: Any, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    _, loss = model(x, y)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def learning_rate(progress: float, peak: float) -> float:
    """Warm-up, then half a cosine down to a tenth, over the share of the time that has passed."""
    if progress < WARMUP_SHARE:
        return peak * max(progress / WARMUP_SHARE, 1e-3)
    cosine = 0.5 * (1.0 + math.cos(math.pi * (progress - WARMUP_SHARE) / (1.0 - WARMUP_SHARE)))
    return peak * (MIN_LR_SHARE + (1.0 - MIN_LR_SHARE) * cosine)


@torch.no_grad()
def evaluate(model: torch.nn.Module, tokens: np.ndarray, settings: dict) -> float:
    """Return the mean loss over all targets, in windows that do not overlap."""
    model.eval()
    length, total = settings["block_size"], 0.0
    starts = range(0, len(tokens) - 1, length)
    for first in range(0, len(starts), 32):
        windows = [tokens[s : s + length + 1].astype(np.int64) for s in starts[first : first + 32]]
        for size in sorted({len(window) for window in windows}):  # the last window is shorter
            rows = torch.from_numpy(np.stack([window for window in windows if len(window) == size]))
            _, loss = model(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
            total += loss.item() * rows[:, 1:].numel()
    return total / (len(tokens) - 1)


if __name__ == "__main__":
    main()
