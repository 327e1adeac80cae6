"""Findings about this machine: packages, memory, disk, folders, and the device that a run here would use.

Packages are imported only when they are examined: this module loads where torch or numpy is broken.
"""

import importlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

_OPTIONAL = {
    "fastokens": ("tokens are made about 40 times slower", "pip install 'candlewick[fast]'"),
    "tensorboard": ("runtime.logging.tensorboard cannot be used", "pip install 'candlewick[tensorboard]'"),
}
_LOW_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One property of the machine."""

    name: str
    value: str
    status: Literal["ok", "warn", "broken"] = "ok"
    """warn: training works, but something is slower or missing; broken: training cannot work."""
    fix: str | None = None  # what to do about a status other than ok
    amount: float | None = None  # the figure in `value`, in bytes, cores or FLOP/s, for programs


def examine(cache: Path) -> Iterator[Finding]:
    """Yield the findings, software first; devices only if no package is broken. `cache` is the cache folder."""
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    packages = [*_required(), *_optional()]
    yield from packages
    yield from _machine()
    yield _writable("cache folder", cache, "set XDG_CACHE_HOME or data.cache_dir to a folder you may write to")
    yield _writable("this folder", Path.cwd(), "give --run-dir, or change to a folder you may write to")
    if all(finding.status != "broken" for finding in packages):
        yield from _devices()


def _required() -> Iterator[Finding]:
    """Compare each package that candlewick declares with the version that can be imported."""
    requires = "\n".join(metadata.requires("candlewick") or [])
    for name, lowest in re.findall(r"^([\w.-]+).*>=([\d.]+)(?!.*extra ==)", requires, re.MULTILINE):
        fix = f"pip install '{name}>={lowest}'"
        try:
            importlib.import_module("yaml" if name == "pyyaml" else name.replace("-", "_"))
            version = metadata.version(name)
        except (ImportError, OSError) as error:  # OSError: a shared library of the package is missing
            yield Finding(name, f"cannot be imported: {error}", "broken", fix)
            continue
        if _numbers(version) < _numbers(lowest):
            yield Finding(name, f"{version}, older than {lowest}", "broken", fix)
        else:
            yield Finding(name, version)


def _optional() -> Iterator[Finding]:
    for name, (loss, fix) in _OPTIONAL.items():
        try:
            yield Finding(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, f"not installed: {loss}", "warn", fix)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+")[0])[:3])


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("cores", f"{cores} usable", amount=cores)
    fix = "close other programs, or lower data.micro_batch_size and data.num_workers"
    if (memory := available_memory_bytes()) is not None:
        yield _space("memory", memory, "free", fix)
    disk = shutil.disk_usage(Path.cwd()).free
    yield _space("disk", disk, "free here", "free space, or give --run-dir on another disk")


def _space(name: str, size: int, words: str, fix: str) -> Finding:
    is_low = size < _LOW_BYTES
    return Finding(name, f"{_gib(size)} {words}", "warn" if is_low else "ok", fix if is_low else None, size)


def available_memory_bytes() -> int | None:
    """Return the memory that programs can still take, within a container's limit; None: unknown."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    available = int(re.findall(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (most := limit.read_text().strip()).isdigit():
        available = min(available, int(most) - int(used.read_text()))
    return available


def _writable(name: str, folder: Path, fix: str) -> Finding:
    """Write a file into the folder, or into the nearest one above it that exists."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"candlewick")
    except OSError as error:
        return Finding(name, f"{folder} cannot be written: {error.strerror}", "warn", fix)
    return Finding(name, str(folder))


def _devices() -> Iterator[Finding]:
    import torch  # noqa: PLC0415  # it may be broken: see the module's docstring

    from candlewick.parallel.device import find_device, has_native_bf16  # noqa: PLC0415
    from candlewick.train.monitor.telemetry import measure_peak_flops  # noqa: PLC0415

    for index in range(torch.cuda.device_count()):  # pragma: cuda
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory
        yield Finding(f"cuda:{index}", f"{properties.name}, {_gib(memory)}", amount=memory)
    if not torch.cuda.is_available() and shutil.which("nvidia-smi"):
        yield Finding(
            "cuda", "there is an NVIDIA driver, but torch does not use it", "warn", "install a CUDA build of torch"
        )
    device = find_device("auto")
    bf16 = "native bfloat16" if has_native_bf16(device) else "no native bfloat16"
    yield Finding("device", f"runtime.device auto is {device.type}, {bf16}, {torch.get_num_threads()} threads")
    flops = measure_peak_flops(device)
    yield Finding("speed", f"{flops / 1e9:,.0f} GFLOP/s at matrix products", amount=flops)


def _gib(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB"
