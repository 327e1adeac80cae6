"""What half precision costs on a device that has no units for it: measured, and told once.

Such products are computed in float32 between two conversions. That is right, and good for trying out a run of a
larger machine, but it saves no time: the warning says how much is lost, for a product of the model's own width.
"""

import logging
import time

import torch

from candlewick.parallel.env import Distributed, has_native_bf16

_MEASURE_SECONDS = 0.03  # per dtype
_ROWS, _MAX_WIDTH = 64, 1024  # bounds one product where it is slow

logger = logging.getLogger(__name__)


def warn_if_emulated(distributed: Distributed, hidden_size: int) -> None:
    """Warn with the measured factor when half-precision products are slower than float32's on this device."""
    dtype, device = distributed.compute_dtype, distributed.device
    if dtype == torch.float32 or (dtype == torch.bfloat16 and has_native_bf16(device)):
        return
    if dtype == torch.float16 and device.type == "cuda":
        return
    factor = slowdown(dtype, hidden_size, device)
    if factor > 1.0:
        logger.warning(
            "this %s only emulates %s: a product of %d columns takes %.1f times as long as in fp32 "
            "(runtime.precision)",
            device.type,
            str(dtype).removeprefix("torch."),
            hidden_size,
            factor,
        )


def slowdown(dtype: torch.dtype, hidden_size: int, device: torch.device) -> float:
    """Return the time of a product in `dtype` over the time in float32, each the best of some."""
    width = min(hidden_size, _MAX_WIDTH)
    return _product_seconds(dtype, width, device) / _product_seconds(torch.float32, width, device)


def _product_seconds(dtype: torch.dtype, width: int, device: torch.device) -> float:
    left = torch.ones(_ROWS, width, dtype=dtype, device=device)
    right = torch.ones(width, width, dtype=dtype, device=device)
    best, end = float("inf"), time.perf_counter() + _MEASURE_SECONDS
    torch.mm(left, right)  # the first one sets up the library
    while best == float("inf") or time.perf_counter() < end:
        began = time.perf_counter()
        torch.mm(left, right)
        if device.type == "cuda":  # pragma: cuda
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best
