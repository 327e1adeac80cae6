"""Activation checkpointing: activations are computed again in the backward pass, for less memory and more time.

    none        all activations that the backward pass reads are saved
    block       only the input of each block is saved; the block runs a second time    a third more FLOPs
    selective   the input and the results of products and attention are saved;         a few % more time
                norms, rotations and activation functions are computed again

The second run does the same operations on the same numbers, random ones included: where kernels are deterministic
no bit of loss or gradients changes. References: arXiv:1604.06174 (block), arXiv:2205.05198 section 5 (selective).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from candlewick.model.transformer import Transformer

Recompute = Literal["none", "block", "selective"]

_aten = torch.ops.aten
_SAVED_OPS = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
}


def apply_recompute(model: Transformer, mode: Recompute) -> None:
    """Replace the forward of every block, in place; before sharding. Random states are saved only for dropout."""
    if mode == "none":
        return
    has_dropout = model.config.attn_dropout > 0 or model.config.residual_dropout > 0
    settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": has_dropout}
    if mode == "selective":
        settings["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    for block in model.model.layers:
        block.forward = _recomputed(block.forward, settings)


def _recomputed(forward: Callable[..., Any], settings: dict[str, Any]) -> Callable[..., Any]:
    # a plain function: of a `partial` the compiler makes no graph, and says nothing
    def recomputed(*args: Any) -> Any:
        return checkpoint(forward, *args, **settings)

    return recomputed


def _policy(context: object, op: Any, *args: object, **kwargs: object) -> CheckpointPolicy:
    del context, args, kwargs
    is_saved = op in _SAVED_OPS or op.namespace in ("candlewick", "torch_attn")  # attention within documents
    return CheckpointPolicy.MUST_SAVE if is_saved else CheckpointPolicy.PREFER_RECOMPUTE
