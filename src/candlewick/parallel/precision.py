"""Measure how much slower half precision is on a device that emulates it, and warn."""

import logging
import time

import torch

from candlewick.parallel.device import Distributed, has_native_bf16

_MEASURE_SECONDS = 0.03  # per dtype
_ROWS, _MAX_WIDTH = 64, 1024  # bounds one product where it is slow

logger = logging.getLogger(__name__)


def warn_if_emulated(distributed: Distributed, hidden_size: int) -> None:
    """Log a warning with the measured factor if half-precision products are slower than those in float32."""
    dtype, device = distributed.compute_dtype, distributed.device
    is_cuda_half = dtype == torch.float16 and device.type == "cuda"
    if dtype == torch.float32 or is_cuda_half or (dtype == torch.bfloat16 and has_native_bf16(device)):
        return
    factor = slowdown(dtype, hidden_size, device)
    if factor > 1.0:
        logger.warning(
            "this %s only emulates %s: a product of %d columns takes %.1f times as long as in fp32 "
            "(runtime.precision)",
            *(device.type, str(dtype).removeprefix("torch."), hidden_size, factor),
        )


def slowdown(dtype: torch.dtype, hidden_size: int, device: torch.device) -> float:
    """Return the time of a matrix product in `dtype` over that in float32, each the shortest of several."""
    like = torch.empty(_ROWS, min(hidden_size, _MAX_WIDTH), dtype=dtype, device=device)
    return product_seconds(like, _MEASURE_SECONDS) / product_seconds(like.float(), _MEASURE_SECONDS)


def product_seconds(like: torch.Tensor, seconds: float) -> float:
    """Return the shortest time (seconds) of products `like` (rows, n) @ (n, n), measured for `seconds`."""
    left, right = torch.ones_like(like), like.new_ones(like.shape[1], like.shape[1])
    best = end = float("inf")
    while (start := time.perf_counter()) < end:
        torch.mm(left, right, out=like)
        if like.is_cuda:  # pragma: cuda
            torch.cuda.synchronize(like.device)
        elif like.is_mps:  # pragma: mps
            torch.mps.synchronize()
        now = time.perf_counter()
        best = min(best, now - start)
        end = min(end, now + seconds)  # after the first product, which initializes the library
    return best
