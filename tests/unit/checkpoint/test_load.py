import json
import logging
import shutil

import pytest
import torch

from candlewick.checkpoint.load import load_for_inference, load_weights, read_resized_weights
from candlewick.checkpoint.open import Checkpoint
from candlewick.checkpoint.safetensors import read_tensors
from candlewick.checkpoint.save import full_weights, save, write_tensors
from candlewick.errors import CheckpointError
from candlewick.model.transformer import Transformer

CPU = torch.device("cpu")


def resume(model, folder) -> Checkpoint:
    """Load what a run goes on from, as `train.build` does."""
    checkpoint = Checkpoint.open(folder, need={"weights", "optimizer"})
    load_weights(model, read_resized_weights(checkpoint, model.vocab_size), folder)
    return checkpoint


def initialize_from(model, path) -> None:
    """Load what a run starts from, as `train.build` does."""
    checkpoint = Checkpoint.open(path, need={"weights"})
    load_weights(model, read_resized_weights(checkpoint, model.vocab_size), checkpoint.folder)


@pytest.fixture
def folder(make_snapshot, tmp_path):
    """A checkpoint of step 3 in a run folder."""
    return save(tmp_path / "run" / "checkpoints", make_snapshot(3))


def test_resume_restores_weights_optimizer_and_state(make_model, make_snapshot, folder):
    snapshot, model = make_snapshot(3), make_model(seed=99)
    resumed = resume(model, folder)
    assert resumed.folder == folder
    assert resumed.state == snapshot.state
    for saved, found in ((snapshot.weights, full_weights(model)), (snapshot.optimizer, resumed.optimizer())):
        assert saved.keys() == found.keys()
        assert all(torch.equal(saved[name], found[name]) for name in saved)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "training/optimizer.safetensors", "training/state.json", "config.json"]
)
def test_resume_from_a_damaged_file_names_the_file_and_changes_no_weight(make_model, folder, name):
    model = make_model(seed=99)
    before = {key: tensor.clone() for key, tensor in full_weights(model).items()}
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=rf"{name} has \d+ bytes, its manifest says \d+"):
        resume(model, folder)
    assert all(torch.equal(before[key], tensor) for key, tensor in full_weights(model).items())


def test_load_weights_names_missing_and_misshapen_tensors(make_model, tmp_path):
    model = make_model()
    weights = full_weights(model)
    short = {name: tensor for name, tensor in weights.items() if "layers.1" not in name}
    with pytest.raises(
        CheckpointError, match=r"lacks 11 tensors of this model, the first is model\.layers\.1\.inp"
    ):
        load_weights(model, short, tmp_path / "x")
    with pytest.raises(CheckpointError, match="has 1 tensors that this model lacks, the first is lm_head"):
        load_weights(model, weights | {"lm_head.weight": torch.zeros(320, 32)}, tmp_path / "x")
    wrong = weights | {"model.norm.weight": torch.zeros(64)}
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight has shape \(64,\), .* says \(32,\)"):
        load_weights(model, wrong, tmp_path / "x")


@pytest.mark.parametrize("shape", [{}, {"tie_word_embeddings": False}, {"qk_norm": False, "mlp_bias": True}])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_load_for_inference_accepts_a_checkpoint_its_folder_or_a_run(
    make_model, make_snapshot, tmp_path, shape, depth
):
    folder = save(tmp_path / "run" / "checkpoints", make_snapshot(3, **shape))
    model, tokenizer = load_for_inference((folder, *folder.parents)[depth], CPU)
    assert not model.training
    assert tokenizer.json_bytes == make_snapshot(3).tokenizer.json_bytes
    expected = make_snapshot(3, **shape).weights
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.named_parameters())
    reference = make_model(**shape).eval()
    load_weights(reference, dict(expected), folder)
    tokens = torch.arange(12)[None]
    assert torch.equal(model(tokens), reference(tokens))


def test_load_for_inference_needs_neither_optimizer_nor_state(folder):
    (folder / "training/optimizer.safetensors").unlink()
    (folder / "training/state.json").unlink()
    load_for_inference(folder, CPU)
    (folder / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=r"checkpoint rejected: .*tokenizer\.json has 2 bytes"):
        load_for_inference(folder, CPU)


def test_load_for_inference_falls_back_to_the_checkpoint_before_a_damaged_newest(make_snapshot, folder, caplog):
    newest = save(folder.parent, make_snapshot(4))
    (newest / "model.safetensors").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        model, _ = load_for_inference(folder.parents[1], CPU)
    assert torch.equal(model.model.norm.weight, make_snapshot(3).weights["model.norm.weight"])
    assert "step_000000004/model.safetensors" in caplog.text
    with pytest.raises(CheckpointError, match="checkpoint rejected"):
        load_for_inference(newest, CPU)


@pytest.fixture
def plain(folder, tmp_path):
    """The same model as a Hugging Face folder: no manifest, nothing of ours."""
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / "plain").mkdir(exist_ok=True)
        shutil.copy(folder / name, tmp_path / "plain")
    return tmp_path / "plain"


def test_load_for_inference_reads_a_hugging_face_folder_in_half_precision(plain, make_snapshot):
    expected = make_snapshot(3).weights
    # some writers save a tied head too, and most save half precision
    tensors = read_tensors(plain / "model.safetensors")
    tensors = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    write_tensors(plain / "model.safetensors", tensors)
    model, _ = load_for_inference(plain, CPU)
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, expected[name].bfloat16().float())


def test_load_for_inference_refuses_a_sharded_hugging_face_folder(plain):
    (plain / "model.safetensors").rename(plain / "model-00001-of-00001.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not exist"):
        load_for_inference(plain, CPU)


def test_a_tokenizer_that_is_larger_than_the_model_is_refused(plain):
    config = json.loads((plain / "config.json").read_bytes())
    (plain / "config.json").write_text(json.dumps({**config, "vocab_size": 299}))
    with pytest.raises(CheckpointError, match="the tokenizer has 300 tokens, the model 299 rows"):
        load_for_inference(plain, CPU)


@pytest.mark.parametrize(
    "change", [{"num_hidden_layers": 10**12}, {"hidden_size": 1 << 40}, {"vocab_size": 10**15}]
)
def test_config_larger_than_the_weights_is_refused_before_allocation(plain, change):
    config = json.loads((plain / "config.json").read_bytes())
    (plain / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CheckpointError, match=r"holds 30,944 numbers, the model of .*config\.json has [\d,]{13,}"):
        load_for_inference(plain, CPU)


def test_load_for_inference_reads_a_model_saved_as_candlewick(make_snapshot, tmp_path):
    shape = {"partial_rotary_factor": 0.5}
    folder = save(tmp_path / "checkpoints", make_snapshot(3, **shape))
    model, _ = load_for_inference(folder, CPU)
    assert model.config.partial_rotary_factor == 0.5
    assert all(torch.equal(tensor, make_snapshot(3, **shape).weights[n]) for n, tensor in model.named_parameters())


def test_ungated_mlp_survives_saving_and_loading(make_snapshot, make_model, tmp_path):
    shape = {"qk_norm": False, "mlp": "silu"}
    folder = save(tmp_path, make_snapshot(3, **shape))
    assert "model.layers.0.mlp.gate_proj.weight" in read_tensors(folder / "model.safetensors")
    resumed, started = make_model(6, **shape), make_model(7, **shape)
    resume(resumed, folder)
    initialize_from(started, folder)
    for model in (resumed, started, load_for_inference(folder, CPU)[0]):
        found = full_weights(model)
        assert all(torch.equal(found[name], tensor) for name, tensor in make_snapshot(3, **shape).weights.items())


@pytest.mark.parametrize("tied", [True, False])
def test_initialize_from_copies_the_weights_of_another_run(make_snapshot, make_model, tmp_path, tied):
    saved = make_snapshot(3, tie_word_embeddings=tied)
    save(tmp_path / "checkpoints", saved)
    model = make_model(9, tie_word_embeddings=tied)
    initialize_from(model, tmp_path)
    assert all(torch.equal(tensor, saved.weights[name]) for name, tensor in model.named_parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_initialize_from_fills_added_vocabulary_rows_with_the_mean(make_snapshot, make_model, tmp_path, tied):
    saved = make_snapshot(3, tie_word_embeddings=tied)
    folder = save(tmp_path / "checkpoints", saved)
    model = Transformer(saved.model_config, 384)
    initialize_from(model, folder)
    for name in ("model.embed_tokens.weight", "lm_head.weight")[: 1 if tied else 2]:
        parameter = dict(model.named_parameters())[name]
        assert torch.equal(parameter[:320], saved.weights[name])
        assert torch.allclose(parameter[320:], saved.weights[name].mean(0).expand(64, -1))
    with pytest.raises(CheckpointError, match="has 320 vocabulary rows, the model 256"):
        initialize_from(Transformer(saved.model_config, 256), folder)


def test_initialize_from_refuses_weights_of_another_shape(folder, make_model):
    with pytest.raises(CheckpointError, match="has 4 tensors that this model lacks, the first is .*k_norm"):
        initialize_from(make_model(qk_norm=False), folder)
