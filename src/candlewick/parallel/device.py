"""Which device this process computes on, in which precision, and what that changes in torch."""

import ctypes
import platform
from dataclasses import dataclass

import torch

from candlewick.config import RuntimeConfig
from candlewick.errors import MachineError
from candlewick.parallel.env import read_ranks, request_deterministic_cublas


@dataclass(frozen=True, slots=True)
class Distributed:
    """This process among the others, and its device."""

    rank: int
    world_size: int
    device: torch.device
    compute_dtype: torch.dtype  # dtype of the matrix products; weights and their updates are float32 always


def find_distributed(config: RuntimeConfig) -> Distributed:
    """Find rank, device and compute dtype. Raises MachineError when the config asks for what is not there."""
    ranks = read_ranks()
    device = find_device(config.device, ranks.local_rank)
    return Distributed(ranks.rank, ranks.world_size, device, _compute_dtype(config.precision, device))


def configure_torch(config: RuntimeConfig, device: torch.device) -> None:
    """Set what the config asks of torch for the whole process: deterministic kernels, TF32, freed memory kept."""
    keep_freed_memory()
    if config.deterministic:
        request_deterministic_cublas()
        torch.use_deterministic_algorithms(True)
    # of the two ways to say it the one that compiled code reads too; it must not reach the CPU's products
    torch.set_float32_matmul_precision("high" if config.tf32 and device.type == "cuda" else "highest")


def find_device(setting: str, local_rank: int = 0) -> torch.device:
    """Return the device that `runtime.device` names; `auto` takes the first of cuda, mps, cpu that works."""
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
    """Whether the device multiplies bfloat16 matrices in hardware (elsewhere it is emulated, and slower)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()  # pyright: ignore[reportPrivateUsage]


def _compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return what `runtime.precision` means on a device. Raises MachineError for what it cannot train in."""
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
    """Keep freed memory in the process: glibc maps and unmaps each block above 32 MB.

    The page faults cost about a sixth of a small model's step. Does nothing on other C libraries.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # M_TRIM_THRESHOLD and so on of malloc.h
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 64 << 20)
