"""Activations that are made again in the backward pass: less memory for more time.

    none        all that a block's backward pass reads waits for it
    block       only the block's input waits; the whole block runs a second time      a third more FLOPs
    selective   the input and the results of products and attention wait; norms,      a few % more time
                rotations and activation functions are made again

The second run does the same operations on the same numbers, random ones included: no bit of loss or gradients
changes. References: arXiv:1604.06174 (block), arXiv:2205.05198 section 5 (selective).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Recompute = Literal["none", "block", "selective"]

_aten = torch.ops.aten
_KEPT = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
}


def apply_recompute(blocks: nn.ModuleList, mode: Recompute, *, has_dropout: bool) -> None:
    """Replace the forward of every block, in place. Random states are kept only for blocks that draw numbers."""
    if mode == "none":
        return
    settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": has_dropout}
    if mode == "selective":
        settings["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    for block in blocks:
        block.forward = _recomputed(block.forward, settings)


def _recomputed(forward: Callable[..., Any], settings: dict[str, Any]) -> Callable[..., Any]:
    # a plain function: of a `partial` the compiler makes no graph, and says nothing
    def recomputed(*args: Any) -> Any:
        return checkpoint(forward, *args, **settings)

    return recomputed


def _policy(context: object, op: Any, *args: object, **kwargs: object) -> CheckpointPolicy:
    del context, args, kwargs
    is_kept = op in _KEPT or op.namespace in ("candlewick", "torch_attn")  # within documents
    return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE
