"""Attention within documents of any lengths: torch's kernel, and an operation that compilers do not look into."""

from collections.abc import Callable, Sequence
from functools import cache
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor

DocumentAttention = Callable[[Sequence[Tensor], Tensor, Tensor, int | None], Tensor]
"""Queries, keys and values; ends of the documents on the device and on the host; the window -> (B, H, T, d)."""


def document_kernel(device: torch.device, dtype: torch.dtype, head_dim: int) -> Callable[..., Tensor] | None:
    """Return torch's variable-length flash attention, or None if it does not take queries of this kind."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return None
    is_new_enough = torch.cuda.get_device_capability(device) >= (8, 0)  # pragma: cuda
    return _load_varlen_attn() if is_new_enough and head_dim % 8 == 0 and head_dim <= 256 else None  # pragma: cuda


@cache
def _load_varlen_attn() -> Callable[..., Tensor] | None:  # pragma: cuda
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415  # it loads the compiler: half a second

    # before torch 2.12 it knows neither windows nor grouped heads
    has_groups = "enable_gqa" in signature(varlen_attn).parameters
    return cast("Callable[..., Tensor]", varlen_attn) if has_groups else None


def opaque_attention(attend: DocumentAttention) -> DocumentAttention:
    """Return `attend` as the operation candlewick::attend_documents, with gradients. Call it once per process."""

    @torch.library.custom_op("candlewick::attend_documents_backward", mutates_args=())
    def backward(
        grad: Tensor, qkv: Sequence[Tensor], ends: Tensor, host_ends: Tensor, window: int | None
    ) -> list[Tensor]:
        inputs = [x.detach().requires_grad_() for x in qkv]
        # autograd is disabled inside an operation; torch's own checkpoint enables it this way
        guard = torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False)  # pyright: ignore[reportPrivateUsage]
        with guard, torch.enable_grad():
            y = attend(inputs, ends, host_ends, window)
            return [x.contiguous() for x in torch.autograd.grad(y, inputs, grad)]

    @backward.register_fake
    def _(_grad: Tensor, qkv: Sequence[Tensor], *_: Any) -> list[Tensor]:
        return [x.new_empty(x.shape) for x in qkv]

    def setup_context(ctx: Any, inputs: tuple[Any, ...], **_: Any) -> None:
        qkv, ends, host_ends, ctx.window = inputs
        ctx.save_for_backward(*qkv, ends, host_ends)

    def gradients(ctx: Any, grad: Tensor) -> tuple[object, ...]:
        *qkv, ends, host_ends = ctx.saved_tensors
        return backward(grad, qkv, ends, host_ends, ctx.window), None, None, None

    forward = torch.library.custom_op("candlewick::attend_documents", attend, mutates_args=())
    forward.register_fake(lambda qkv, *_: qkv[0].new_empty(qkv[0].transpose(1, 2).shape).transpose(1, 2))
    forward.register_autograd(gradients, setup_context=setup_context)
    return cast(DocumentAttention, forward)
