import hashlib

import pytest
import torch
from safetensors import safe_open

from candlewick.checkpoint.safetensors import read_tensors, write_tensors
from candlewick.errors import CheckpointError


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_library_reads_what_we_write(tmp_path, dtype):
    tensors = {
        "a.weight": torch.randn(3, 5).to(dtype),
        "b": torch.tensor(2.5, dtype=dtype),
        "c": torch.randn(4, 4).to(dtype).t(),
    }
    entry = write_tensors(tmp_path / "x.safetensors", tensors)
    content = (tmp_path / "x.safetensors").read_bytes()
    assert (entry.bytes, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(tensors)
        for name, tensor in tensors.items():
            assert torch.equal(file.get_tensor(name), tensor)
    assert all(torch.equal(read_tensors(tmp_path / "x.safetensors")[name], t) for name, t in tensors.items())


def test_the_tensor_bytes_start_at_a_multiple_of_eight(tmp_path):
    for length in range(1, 9):
        write_tensors(tmp_path / "x", {"n" * length: torch.zeros(1)})
        header_bytes = int.from_bytes((tmp_path / "x").read_bytes()[:8], "little")
        assert header_bytes % 8 == 0


def test_a_truncated_file_is_refused(tmp_path):
    write_tensors(tmp_path / "x", {"a": torch.zeros(100)})
    content = (tmp_path / "x").read_bytes()
    for size in (0, 7, 20, len(content) - 1):
        (tmp_path / "x").write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="not a readable safetensors file"):
            read_tensors(tmp_path / "x")
