"""`examine` lists findings, warns about weak ones, and calls only missing requirements of training broken."""

import errno
import importlib
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from candlewick.runs.report import doctor
from candlewick.runs.report.doctor import Finding, available_memory_bytes, examine


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Return a function that examines the machine, by the findings' names."""
    monkeypatch.setattr("candlewick.train.monitor.telemetry.measure_peak_flops", lambda device: 1.25e11)
    return lambda: {finding.name: finding for finding in examine(tmp_path / "cache")}


def test_examine_checks_every_declared_package(findings: Any):
    found = findings()
    declared = [line for line in metadata.requires("candlewick") or [] if "extra ==" not in line]
    assert len(declared) >= 8
    for name in ("torch", "numpy", "pydantic", "pyyaml", "tokenizers", "safetensors", "pyarrow", "rich"):
        assert found[name].status == "ok"
        assert found[name].value == metadata.version(name)
    assert found["device"].value.startswith("runtime.device auto is ")
    assert found["speed"] == Finding("speed", "125 GFLOP/s at matrix products", amount=1.25e11)
    assert found["cores"].amount >= 1


def test_package_with_an_import_error_is_broken(findings: Any, monkeypatch: pytest.MonkeyPatch):
    real = importlib.import_module

    def importing(name: str, *rest: Any) -> Any:
        if name == "pyarrow":
            raise ImportError("libarrow.so: no such file")
        return real(name, *rest)

    monkeypatch.setattr(doctor.importlib, "import_module", importing)
    found = findings()
    assert found["pyarrow"].value == "cannot be imported: libarrow.so: no such file"
    assert found["pyarrow"].status == "broken"
    assert found["pyarrow"].fix == "pip install 'pyarrow>=17'"
    assert "speed" not in found, "devices are not looked at with broken packages"


def test_old_package_is_broken_and_missing_extra_is_not(findings: Any, monkeypatch: pytest.MonkeyPatch):
    real = metadata.version

    def version(name: str) -> str:
        if name == "fastokens":
            raise metadata.PackageNotFoundError(name)
        return "2.10.1+cu128" if name == "torch" else real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    found = findings()
    assert found["torch"] == Finding(
        "torch", "2.10.1+cu128, older than 2.11", "broken", "pip install 'torch>=2.11'"
    )
    assert found["fastokens"].status == "warn"
    assert found["fastokens"].fix == "pip install 'candlewick[fast]'"


def test_little_memory_and_disk_are_warned_about(findings: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "available_memory_bytes", lambda: 1 << 30)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1 << 29}))
    found = findings()
    assert (found["memory"].status, found["memory"].value) == ("warn", "1.0 GiB free")
    assert (found["disk"].status, found["disk"].value) == ("warn", "0.5 GiB free here")


def test_examine_skips_memory_when_the_system_hides_it(findings: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "available_memory_bytes", lambda: None)
    assert "memory" not in findings()


def test_an_unwritable_folder_is_warned_about(findings: Any, monkeypatch: pytest.MonkeyPatch):
    def refuse(**where: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    found = findings()
    assert found["cache folder"].status == "warn"
    assert "cannot be written: Permission denied" in found["this folder"].value


def test_nvidia_driver_without_a_cuda_build_of_torch_is_warned_about(
    findings: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert findings()["cuda"].fix == "install a CUDA build of torch"


@pytest.mark.parametrize(("limit", "expected"), [("max", 8 << 30), (str(3 << 30), 2 << 30)])
def test_available_memory_respects_the_limit_of_a_container(
    monkeypatch: pytest.MonkeyPatch, limit: str, expected: int
):
    content = {
        "/proc/meminfo": f"MemTotal: 99 kB\nMemAvailable:    {8 << 20} kB\n",
        "/sys/fs/cgroup/memory.max": limit + "\n",
        "/sys/fs/cgroup/memory.current": f"{1 << 30}\n",
    }
    monkeypatch.setattr(Path, "exists", lambda path: str(path) in content)
    monkeypatch.setattr(Path, "read_text", lambda path: content[str(path)])
    assert available_memory_bytes() == expected


def test_available_memory_is_unknown_without_the_proc_file_system(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert available_memory_bytes() is None
