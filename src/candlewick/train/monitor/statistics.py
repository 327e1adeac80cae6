"""Statistics of an update: sizes of weights, gradients and activations of each part of the model.

    stats/embedding/...   stats/layers.0/...   stats/layers.1/...   stats/head/...  (when it is not the embedding)
        weight_rms        root mean square of all weights of the part, after the update
        gradient_rms      of their gradients, as the optimizer got them: clipped
        activation_rms    of what the part puts out, over all tokens of the update; the head has none
        activation_max    the largest magnitude in it

The hooks that read activations exist inside `record_update_statistics` only. They sit on the modules, not inside
of their forward: what is made again in the backward pass is not counted twice.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from candlewick.model.transformer import Transformer
from candlewick.parallel.fsdp import full_tensor


@contextmanager
def record_update_statistics(model: Transformer) -> Generator[Callable[[], dict[str, float]]]:
    """Record the updates made inside; yield a function that returns their figures, waiting for the device."""
    parts: dict[str, nn.Module] = {"embedding": model.model.embed_tokens}
    parts |= {f"layers.{number}": block for number, block in enumerate(model.model.layers)}
    parts |= {} if model.config.tie_word_embeddings else {"head": model.lm_head}
    squares: dict[str, list[Tensor]] = defaultdict(list)
    peaks: dict[str, list[Tensor]] = defaultdict(list)

    def record_output(name: str, _module: nn.Module, _args: object, output: Tensor) -> None:
        x = output.detach().float()
        squares[name].append(x.square().mean())
        peaks[name].append(x.abs().amax())

    def figures() -> dict[str, float]:
        statistics: dict[str, Tensor] = {}
        for name, module in parts.items():
            weights = [parameter.detach() for parameter in module.parameters()]
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            statistics[f"{name}/weight_rms"] = _rms(weights)
            statistics[f"{name}/gradient_rms"] = _rms(gradients)
            if squares[name]:
                statistics[f"{name}/activation_rms"] = torch.stack(squares[name]).mean().sqrt()
                statistics[f"{name}/activation_max"] = torch.stack(peaks[name]).amax()
        values = torch.stack([value.float() for value in statistics.values()]).tolist()
        return {f"stats/{name}": value for name, value in zip(statistics, values, strict=True)}

    handles = [module.register_forward_hook(partial(record_output, name)) for name, module in parts.items()]
    try:
        yield figures
    finally:
        for handle in handles:
            handle.remove()


def _rms(tensors: list[Tensor]) -> Tensor:
    norm = full_tensor(torch.nn.utils.get_total_norm(tensors))
    return norm / math.sqrt(sum(tensor.numel() for tensor in tensors))
