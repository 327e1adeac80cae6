"""The device and precision of this process, and the settings of torch for them."""

import ctypes
import platform
from dataclasses import dataclass

import torch

from candlewick.config import RuntimeConfig
from candlewick.errors import MachineError
from candlewick.parallel.env import read_ranks, request_deterministic_cublas


@dataclass(frozen=True, slots=True)
class Distributed:
    """The rank, device and compute dtype of this process."""

    rank: int
    world_size: int
    device: torch.device
    compute_dtype: torch.dtype  # of the matrix products; weights and their updates are always float32


def find_distributed(config: RuntimeConfig) -> Distributed:
    """Find rank, device and compute dtype. Raises MachineError if the machine lacks what the config asks for."""
    rank, world_size, local_rank = read_ranks()
    device = find_device(config.device, local_rank)
    return Distributed(rank, world_size, device, _compute_dtype(config.precision, device))


def configure_torch(config: RuntimeConfig, device: torch.device) -> None:
    """Set deterministic kernels, TF32 and the allocator of the CPU for the process, as the config says."""
    keep_freed_memory()
    if config.deterministic:
        request_deterministic_cublas()
        torch.use_deterministic_algorithms(True)
    # of the two settings of TF32, compiled code reads this one; "high" would change the products of the CPU too
    torch.set_float32_matmul_precision("high" if config.tf32 and device.type == "cuda" else "highest")


def find_device(setting: str, local_rank: int = 0) -> torch.device:
    """Return the device of `runtime.device`; `auto` prefers cuda, then mps, then cpu. Raises MachineError."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if setting == "auto":
        setting = next(name for name, present in available.items() if present)
    if not available[setting]:
        raise MachineError(
            f"runtime.device is {setting}, and torch {torch.__version__} finds no such device here",
            "set runtime.device: auto, or install the torch build for this device",
        )
    return torch.device("cuda", local_rank) if setting == "cuda" else torch.device(setting)


def has_native_bf16(device: torch.device) -> bool:
    """Return whether the device has hardware for bfloat16 products; without it they are emulated and slower."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()  # pyright: ignore[reportPrivateUsage]


def _compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype that `runtime.precision` means. Raises MachineError for half precision on mps."""
    has_bf16 = has_native_bf16(device)
    if precision == "auto":
        precision = "mixed" if device.type == "cuda" and has_bf16 else "fp32"
    if device.type == "mps" and precision != "fp32":
        raise MachineError(
            f"runtime.precision is {precision}, which this version cannot train in on mps",
            "set runtime.precision: fp32",
        )
    if precision == "mixed":
        precision = "fp16" if device.type == "cuda" and not has_bf16 else "bf16"
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def keep_freed_memory() -> None:
    """Make malloc keep freed memory in the process; glibc would map and unmap each block above 32 MB.

    The page faults cost about a sixth of a small model's step. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # M_TRIM_THRESHOLD and so on of malloc.h
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 64 << 20)
