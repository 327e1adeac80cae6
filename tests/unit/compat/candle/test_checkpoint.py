"""Reading a checkpoint of transformer_candle, and each way in which one is refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.candle import Candle

from candlewick.compat.candle.checkpoint import (
    model_config,
    native_state,
    native_weights,
    open_candle,
    read_optimizer,
    to_native,
)
from candlewick.config import ModelConfig
from candlewick.errors import CheckpointError
from candlewick.model.transformer import Transformer


@pytest.fixture
def candle():
    return Candle(300, 32, 2, 48, 2)


def test_open_candle_accepts_a_checkpoint_or_the_newest_of_a_folder(tmp_path, candle, caplog):
    old = candle.write(tmp_path)
    newer = Candle(300, 32, 2, 48, 2, step=12).write(tmp_path)
    assert open_candle(old).step == 7
    assert open_candle(tmp_path).folder == newer
    (newer / "manifest.json").unlink()  # a crash while it was being saved
    assert open_candle(tmp_path).folder == old
    assert "step_000000000012_global_000000000012 is rejected" in caplog.text
    run = tmp_path / "run"
    (run).mkdir()
    old.rename(run / "checkpoints")  # not one of them: its name says nothing
    with pytest.raises(CheckpointError, match="no complete checkpoint of transformer_candle"):
        open_candle(run)


def test_shape_is_read_from_the_tensors(tmp_path, candle):
    shape = open_candle(candle.write(tmp_path)).shape
    assert shape == {"vocab_size": 300, "hidden_size": 32, "num_layers": 2, "intermediate_size": 48}


def test_native_weights_have_the_names_and_shapes_of_the_transformer(tmp_path, candle):
    checkpoint = open_candle(candle.write(tmp_path))
    config = model_config(checkpoint, None, 2)
    model = Transformer(config, 300)
    weights = native_weights(checkpoint, 2)
    assert {name: p.shape for name, p in model.named_parameters()} == {
        name: t.shape for name, t in weights.items()
    }


def test_tensor_names_with_counters_of_early_builds_are_read(tmp_path, candle):
    folder = candle.write(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    renamed = {name.replace(".qkv.", ".qkv.linear_3."): tensor for name, tensor in tensors.items()}
    save_file(renamed, folder / "model.safetensors")
    candle.seal(folder)
    assert open_candle(folder).tensors.keys() == candle.tensors.keys()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop("blocks.1.qkv.bias"), r"blocks.1.qkv.bias is nothing, a model of its shape has \(96,\)"),
        (lambda t: t.pop("embedding.weight"), "has no embedding.weight: it is not a model of transformer_candle"),
        (lambda t: t.update({"lm_head.weight": torch.ones(2)}), r"lm_head.weight is \(2,\), .* has nothing"),
        (lambda t: t.update({"final_norm.bias": torch.ones(32)}), "final_norm.bias: a model with LayerNorm"),
        (lambda t: t.update({"blocks.0.out_proj.bias": torch.ones(7)}), r"out_proj.bias is \(7,\)"),
    ],
)
def test_missing_or_unknown_tensors_are_refused_by_name(tmp_path, candle, change, sentence):
    folder = candle.write(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    candle.seal(folder)
    with pytest.raises(CheckpointError, match=sentence):
        open_candle(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.json", "scheduler.json", "scaler.json"])
def test_changed_or_missing_file_of_a_checkpoint_is_refused(tmp_path, candle, name):
    folder = candle.write(tmp_path)
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    with pytest.raises(CheckpointError, match=f"{name} is not what its manifest says"):
        open_candle(folder)
    path.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=f"{name} is not what its manifest says"):
        open_candle(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        open_candle(folder)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"version": 1}', "[" * 100_000])
def test_manifest_of_other_content_is_refused(tmp_path, candle, content):
    folder = candle.write(tmp_path)
    (folder / "manifest.json").unlink()
    if content is not None:
        (folder / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError, match="is not a manifest of transformer_candle"):
        open_candle(folder)


def test_manifest_of_another_version_is_refused(tmp_path, candle):
    with pytest.raises(CheckpointError, match="has version 2, transformer_candle wrote 1"):
        open_candle(candle.write(tmp_path, version=2))


def test_number_of_heads_comes_from_settings_or_command_line(tmp_path, candle, caplog):
    checkpoint = open_candle(candle.write(tmp_path))
    with pytest.raises(CheckpointError, match=r"does not say how many heads .* which makes 1"):
        model_config(checkpoint, None, None)
    assert model_config(checkpoint, None, 4).head_dim == 8
    given = ModelConfig(num_attention_heads=2, hidden_size=32, rope_mode="off", max_position_embeddings=64)
    config = model_config(checkpoint, given, None)
    assert (config.num_attention_heads, config.rope_mode, config.max_position_embeddings) == (2, "off", 64)
    grouped = ModelConfig(num_attention_heads=2, num_key_value_heads=1, hidden_size=32, rope_theta=5e5)
    config = model_config(checkpoint, grouped, None)
    assert (config.num_key_value_heads, config.rope_theta) == (2, 10_000.0)
    assert "model.num_key_value_heads=1: transformer_candle ignored it and trained with 2" in caplog.text
    assert "model.rope_theta=500000.0: transformer_candle ignored it and trained with 10000.0" in caplog.text


@pytest.mark.parametrize(
    ("given", "heads", "sentence"),
    [
        (ModelConfig(hidden_size=64), 2, "the settings say model.hidden_size=64, the weights .* say 32"),
        (ModelConfig(num_layers=3), 2, "model.num_layers=3"),
        (ModelConfig(vocab_size=301), 2, "model.vocab_size=301"),
        (ModelConfig(num_attention_heads=4), 2, "--heads 2 and model.num_attention_heads"),
        (None, 3, "3 heads do not divide 32 channels into even parts"),
        (None, 32, "32 heads do not divide"),
    ],
)
def test_settings_that_contradict_the_weights_are_refused(tmp_path, candle, given, heads, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        model_config(open_candle(candle.write(tmp_path)), given, heads)


@pytest.mark.parametrize("pretty", [True, False])
@pytest.mark.parametrize("masters", [True, False])
def test_read_optimizer_returns_the_written_step_and_moments(tmp_path, candle, pretty, masters):
    path = candle.write(tmp_path, pretty=pretty, masters=masters) / "optimizer.json"
    step, parameters = read_optimizer(path)
    expected = json.loads(path.read_text())
    assert step == expected["step"]
    for (name, values), theirs in zip(parameters, expected["parameters"], strict=True):
        assert name == theirs["name"]
        kinds = ("first_moment", "second_moment", "master") if masters else ("first_moment", "second_moment")
        assert tuple(values) == kinds
        for kind in kinds:
            assert np.array_equal(values[kind].numpy(), np.array(theirs[kind], np.float32))


def edit(folder, candle, change):
    path = folder / "optimizer.json"
    path.write_text(change(path.read_text()))
    candle.seal(folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda text: "", "cannot be read"),
        (lambda text: "{}", "does not begin with the number of updates"),
        (lambda text: text.replace('"step": 7', '"step": null'), "does not begin with the number of updates"),
        (lambda text: text[: len(text) // 2], "cut short"),
        (lambda text: text.rstrip("}\n "), "it is cut short"),
        (
            lambda text: text.replace("embedding.weight", "other.weight"),
            "has other.weight, which the weights do not",
        ),
        (lambda text: text.replace("first_moment", "momentum"), "has no moments of 30 parameters"),
        (
            lambda text: text.replace('"first_moment": [\n', '"first_moment": [\nnull,', 1),
            "holds null, which stands for",
        ),
        (
            lambda text: text.replace('"first_moment": [\n', '"first_moment": [\n"a",', 1),
            "holds something else among",
        ),
        (
            lambda text: text.replace('"first_moment": [\n', '"first_moment": [\n1.0,', 1),
            "has 9601 numbers, not 9600",
        ),
    ],
)
def test_damaged_optimizer_file_is_refused_by_name(tmp_path, candle, change, sentence):
    folder = candle.write(tmp_path)
    edit(folder, candle, change)
    with pytest.raises(CheckpointError, match=sentence):
        native_state(open_candle(folder), 2)


def test_optimizer_without_a_parameter_is_refused_by_name(tmp_path, candle):
    folder = candle.write(tmp_path)
    raw = json.loads((folder / "optimizer.json").read_text())
    raw["parameters"] = raw["parameters"][:-1]
    edit(folder, candle, lambda _: json.dumps(raw))
    with pytest.raises(CheckpointError, match=r"no moments of 1 parameters, model.norm.weight for one"):
        native_state(open_candle(folder), 2)


def test_permuted_rotary_channels_give_the_same_attention():
    """Neighboring channels turned in the order of transformer_candle are half-split ones turned in ours."""
    heads, size = 3, 8
    rows = torch.randn(heads * size, 5)
    ours = to_native("blocks.0.qkv.weight", torch.cat((rows, rows, rows)), heads)[
        "model.layers.0.self_attn.q_proj.weight"
    ]
    for head in range(heads):
        for pair in range(size // 2):
            assert torch.equal(ours[head * size + pair], rows[head * size + 2 * pair])
            assert torch.equal(ours[head * size + pair + size // 2], rows[head * size + 2 * pair + 1])
