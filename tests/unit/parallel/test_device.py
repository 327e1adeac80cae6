import sys

import pytest
import torch

from candlewick.config import RuntimeConfig
from candlewick.errors import MachineError
from candlewick.parallel import device as module
from candlewick.parallel.device import (
    configure_torch,
    find_device,
    find_distributed,
    has_native_bf16,
    keep_freed_memory,
)


def test_find_distributed_of_one_process_is_rank_zero_of_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    found = find_distributed(RuntimeConfig(device="cpu"))
    assert (found.rank, found.world_size, found.device.type) == (0, 1, "cpu")
    assert found.compute_dtype == torch.float32


def test_precision_bf16_computes_in_bfloat16():
    assert find_distributed(RuntimeConfig(device="cpu", precision="bf16")).compute_dtype == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_find_device_refuses_a_missing_device():
    with pytest.raises(MachineError, match="runtime.device is cuda"):
        find_device("cuda")


def test_find_device_auto_returns_an_available_device():
    assert find_device("auto").type in ("cuda", "mps", "cpu")


def test_deterministic_setting_enables_deterministic_algorithms(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    try:
        configure_torch(RuntimeConfig(deterministic=True), torch.device("cpu"))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_native_bf16_depends_on_the_hardware():
    assert has_native_bf16(torch.device("cpu")) in (True, False)
    assert not has_native_bf16(torch.device("mps"))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_freed_memory_of_large_tensors_is_kept():
    import resource

    keep_freed_memory()
    for _ in range(20):  # the heap grows until a freed block fits the next request, alignment included
        torch.empty(16 << 20).fill_(1.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.empty(16 << 20).fill_(1.0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 16_384


@pytest.mark.parametrize(
    ("device", "has_bf16", "dtypes"),
    [
        ("cuda", True, {"auto": "bfloat16", "mixed": "bfloat16", "fp16": "float16", "fp32": "float32"}),
        ("cuda", False, {"auto": "float32", "mixed": "float16", "bf16": "bfloat16", "fp32": "float32"}),
        ("cpu", True, {"auto": "float32", "mixed": "bfloat16", "fp16": "float16", "fp32": "float32"}),
        ("cpu", False, {"auto": "float32", "mixed": "bfloat16", "bf16": "bfloat16", "fp32": "float32"}),
        ("mps", False, {"auto": "float32", "fp32": "float32"}),
    ],
)
def test_compute_dtype_follows_precision_and_device(monkeypatch, device, has_bf16, dtypes):
    monkeypatch.setattr(module, "has_native_bf16", lambda _: has_bf16)
    monkeypatch.setattr(module, "find_device", lambda *_, **__: torch.device(device))
    for precision, name in dtypes.items():
        assert find_distributed(RuntimeConfig(precision=precision)).compute_dtype == getattr(torch, name)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "mixed"])
def test_half_precision_on_mps_is_refused(monkeypatch, precision):
    monkeypatch.setattr(module, "find_device", lambda *_, **__: torch.device("mps"))
    with pytest.raises(MachineError, match=rf"precision is {precision}, .*on mps.*precision: fp32"):
        find_distributed(RuntimeConfig(precision=precision))


def test_tf32_applies_to_cuda_only_and_can_be_reset(monkeypatch):
    try:
        configure_torch(RuntimeConfig(tf32=True), torch.device("cpu"))
        assert torch.get_float32_matmul_precision() == "highest"
        for tf32, expected in ((True, "high"), (False, "highest")):
            configure_torch(RuntimeConfig(tf32=tf32), torch.device("cuda"))
            assert torch.get_float32_matmul_precision() == expected
            assert torch.backends.cuda.matmul.allow_tf32 is tf32
    finally:
        torch.set_float32_matmul_precision("highest")
