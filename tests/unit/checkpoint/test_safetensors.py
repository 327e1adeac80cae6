import hashlib
import json

import pytest
import torch
from safetensors import safe_open

from candlewick.checkpoint.safetensors import read_model, read_tensors
from candlewick.checkpoint.save import write_tensors
from candlewick.errors import CheckpointError


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_written_file_is_read_equal_by_the_safetensors_library(tmp_path, dtype):
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


@pytest.fixture
def sharded(tmp_path):
    """A model in two files with an index, as Hugging Face writes large ones."""
    write_tensors(tmp_path / "model-00001-of-00002.safetensors", {"a": torch.ones(2)})
    write_tensors(tmp_path / "model-00002-of-00002.safetensors", {"b": torch.zeros(3)})
    places = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return tmp_path


def test_read_model_joins_sharded_files(sharded):
    tensors = read_model(sharded)
    assert torch.equal(tensors["a"], torch.ones(2))
    assert torch.equal(tensors["b"], torch.zeros(3))
    write_tensors(sharded / "model.safetensors", {"c": torch.ones(1)})
    assert read_model(sharded).keys() == {"c"}  # one whole file is the model


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        ("{", "is not an index of weights"),
        ("[]", "is not an index of weights"),
        ('{"weight_map": []}', "is not an index of weights"),
        ('{"weight_map": {"a": "../a.safetensors"}}', "which is not a file beside it"),
        ('{"weight_map": {"a": "/etc/a.safetensors"}}', "which is not a file beside it"),
        ('{"weight_map": {"a": "model.bin"}}', "which is not a file beside it"),
        ('{"weight_map": {"a": "model-00003.safetensors"}}', "does not exist"),
        ('{"weight_map": {"z": "model-00001-of-00002.safetensors"}}', "has no z, which its index names"),
    ],
)
def test_read_model_refuses_a_malformed_or_unsafe_index(sharded, index, sentence):
    (sharded / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=sentence):
        read_model(sharded)


def test_read_model_refuses_a_folder_without_weights(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_model(tmp_path)
