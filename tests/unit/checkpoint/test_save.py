import errno
import json
import logging
import os
import shutil
from dataclasses import replace

import pytest
import torch
from tests import foreign
from tests.prepared import newest_checkpoint

from candlewick.artifacts.manifest import read_manifest, verify
from candlewick.checkpoint.huggingface import to_hf_tensors
from candlewick.checkpoint.layout import list_checkpoints, prune
from candlewick.checkpoint.safetensors import read_tensors
from candlewick.checkpoint.save import full_weights, require_finite, save, write_checkpoint
from candlewick.errors import CheckpointError, MachineError, RunDiverged
from candlewick.tokenizer.bpe import Tokenizer


def step_of(folder):
    return int(folder.name.removeprefix("step_"))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_save_writes_all_files_and_lists_them_in_the_manifest(make_snapshot, tmp_path):
    snapshot = make_snapshot(7)
    folder = save(tmp_path / "checkpoints", snapshot)
    assert folder == tmp_path / "checkpoints" / "step_000000007"
    files = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training/optimizer.safetensors",
        "training/state.json",
    ]
    assert names(folder) == sorted([*files[:-2], "manifest.json", "training"])
    assert [path.name for path in folder.glob("*.safetensors")] == [
        "model.safetensors"
    ]  # as vLLM looks for weights
    manifest = read_manifest(folder, "checkpoint", 2)
    verify(folder, manifest)
    assert [entry.name for entry in manifest.files] == files
    assert dict(manifest.inputs) == snapshot.inputs
    assert manifest.details == {"step": 7}
    for name, tensors in (("model", snapshot.weights), ("training/optimizer", snapshot.optimizer)):
        read = read_tensors(folder / f"{name}.safetensors")
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[key], tensors[key]) for key in tensors)
    assert json.loads((folder / "training/state.json").read_bytes()) == snapshot.state
    assert json.loads((folder / "config.json").read_bytes())["vocab_size"] == 320


def test_checkpoint_id_depends_on_content_and_not_on_time(make_snapshot, tmp_path):
    ids = [read_manifest(save(tmp_path / name, make_snapshot(1))).id for name in "ab"]
    assert ids[0] == ids[1]
    assert read_manifest(save(tmp_path / "c", make_snapshot(2))).id != ids[0]


@pytest.mark.parametrize("tied", [True, False])
def test_full_weights_a_tied_model_omit_the_head_and_are_float32(make_model, tied):
    weights = full_weights(make_model(tie_word_embeddings=tied))
    assert ("lm_head.weight" in weights) is not tied
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_save_keeps_the_newest_checkpoints_and_journals_each_save(make_snapshot, tmp_path):
    for step in (1, 2, 3, 4):
        prune(tmp_path, save(tmp_path, make_snapshot(step)), 2)
    assert [step_of(folder) for folder in list_checkpoints(tmp_path)] == [3, 4]
    journal = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [line["checkpoint"] for line in journal] == [f"step_00000000{step}" for step in (1, 2, 3, 4)]
    assert journal[-1]["id"] == read_manifest(tmp_path / "step_000000004").id


def test_save_does_not_count_rejected_later_checkpoints_as_kept(make_snapshot, tmp_path):
    for step in (1, 7, 8):
        save(tmp_path, make_snapshot(step))
    for step in (7, 8):
        (tmp_path / f"step_00000000{step}" / "training/state.json").unlink()
    for step in (2, 3, 4):
        prune(tmp_path, save(tmp_path, make_snapshot(step)), 2)
        assert step_of(newest_checkpoint(tmp_path)) == step
    assert [step_of(folder) for folder in list_checkpoints(tmp_path)] == [3, 4, 7, 8]
    prune(tmp_path, save(tmp_path, make_snapshot(7)), 2)
    assert step_of(newest_checkpoint(tmp_path)) == 7
    assert [step_of(folder) for folder in list_checkpoints(tmp_path)] == [4, 7, 8]


def test_save_of_the_same_step_replaces_the_checkpoint(make_snapshot, tmp_path):
    save(tmp_path, make_snapshot(1))
    other = make_snapshot(1)
    other.weights["model.norm.weight"].fill_(3.0)
    save(tmp_path, other)
    assert names(tmp_path) == ["journal.jsonl", "step_000000001"]
    saved = read_tensors(tmp_path / "step_000000001" / "model.safetensors")
    assert torch.equal(saved["model.norm.weight"], torch.full((32,), 3.0))


def test_save_renames_a_folder_without_manifest_instead_of_deleting(make_snapshot, tmp_path, caplog):
    (save(tmp_path, make_snapshot(1)) / "manifest.json").unlink()
    with caplog.at_level(logging.WARNING):
        save(tmp_path, make_snapshot(1))
    assert step_of(newest_checkpoint(tmp_path)) == 1
    (rejected,) = tmp_path.glob("step_000000001.rejected-*")
    assert (rejected / "model.safetensors").is_file()
    assert rejected.name in caplog.text


def test_save_without_disk_space_writes_nothing(make_snapshot, tmp_path, monkeypatch):
    save(tmp_path, make_snapshot(1))
    before = names(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    with pytest.raises(MachineError, match=r"has 0 MiB free, checkpoints need 1 MiB .*free space there"):
        save(tmp_path, make_snapshot(2))
    assert names(tmp_path) == before


@pytest.mark.parametrize("operation", ["fsync", "rename"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_failed_save_leaves_a_valid_old_or_new_checkpoint(make_snapshot, tmp_path, monkeypatch, operation, number):
    first, second = make_snapshot(1), make_snapshot(2)
    save(tmp_path, first)
    original = getattr(os, operation)
    failed_at = 0
    while True:  # the first call fails, then the second, ... until a save comes through
        failed_at += 1
        calls = 0

        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == failed_at:  # noqa: B023 - it is called in this round only
                raise OSError(number, "no")
            return original(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, operation, call)
            try:
                save(tmp_path, second)
            except OSError as error:
                if error.errno != number:
                    raise
            else:
                break
        assert step_of(newest_checkpoint(tmp_path)) in (1, 2)
        assert not [name for name in names(tmp_path) if name.startswith(".")]
        shutil.rmtree(tmp_path / "step_000000002", ignore_errors=True)
    assert failed_at > (10 if operation == "fsync" else 1)
    assert step_of(newest_checkpoint(tmp_path)) == 2


def test_ungated_block_is_saved_as_its_gated_equivalent(make_snapshot, tmp_path):
    snapshot = make_snapshot(1, mlp="silu", qk_norm=False)
    folder = save(tmp_path, snapshot)
    saved = read_tensors(folder / "model.safetensors")
    expected = to_hf_tensors(snapshot.model_config, snapshot.weights)
    assert saved.keys() == expected.keys() > snapshot.weights.keys()
    assert all(torch.equal(saved[name], expected[name]) for name in expected)


def test_full_weights_a_model_share_memory_with_its_parameters(make_model):
    model = make_model()
    pointers = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    assert {name: tensor.data_ptr() for name, tensor in full_weights(model).items()} == pointers


def test_checkpoint_with_a_foreign_tokenizer_names_its_special_tokens(make_snapshot, tmp_path):
    foreign.write("llama3", tmp_path / "tok")
    tokenizer = Tokenizer.load(tmp_path / "tok")
    folder = save(tmp_path, replace(make_snapshot(3), tokenizer=tokenizer))
    config = json.loads((folder / "config.json").read_bytes())
    generation = json.loads((folder / "generation_config.json").read_bytes())
    names = {token["content"]: token["id"] for token in json.loads(tokenizer.json_bytes)["added_tokens"]}
    begin, end, turn = (names[name] for name in ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"))
    assert (config["bos_token_id"], config["eos_token_id"]) == (begin, end)
    assert (generation["bos_token_id"], generation["eos_token_id"]) == (begin, [end, turn, begin])
    assert Tokenizer.load(folder).roles == tokenizer.roles


def test_checkpoint_damaged_during_save_raises_and_older_checkpoints_are_kept(
    make_snapshot, tmp_path, monkeypatch
):
    save(tmp_path, make_snapshot(1))
    rename = os.rename

    def damage(source, target, **where):
        rename(source, target, **where)
        weights = tmp_path / "step_000000002" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\1")

    monkeypatch.setattr(os, "rename", damage)
    with pytest.raises(CheckpointError, match=r"step_000000002.*model\.safetensors"):
        save(tmp_path, make_snapshot(2))
    assert [step_of(folder) for folder in list_checkpoints(tmp_path)] == [1, 2]
    assert step_of(newest_checkpoint(tmp_path)) == 1


def test_a_model_is_written_where_no_folder_is_yet(make_snapshot, tmp_path):
    manifest = write_checkpoint(tmp_path / "new" / "folder" / "model", make_snapshot(1))
    verify(tmp_path / "new" / "folder" / "model", manifest)


@pytest.mark.parametrize("place", ["weights", "optimizer"])
def test_numbers_that_are_not_finite_are_named(make_snapshot, place):
    snapshot = make_snapshot(4)
    require_finite(snapshot)
    name, tensor = next(iter(getattr(snapshot, place).items()))
    tensor.view(-1)[0] = float("nan")
    with pytest.raises(RunDiverged, match=rf"{name} is not finite at step 4"):
        require_finite(snapshot)


def test_checkpoint_of_another_run_is_neither_replaced_nor_pruned(make_snapshot, tmp_path):
    for step in (1, 2):
        save(tmp_path, replace(make_snapshot(step), run="other"))
    save(tmp_path, make_snapshot(3))  # of an older version: it names no run
    own = replace(make_snapshot(4), run="own")
    with pytest.raises(
        CheckpointError, match=r"step_000000002 belongs to run other, so run own does not replace it"
    ):
        save(tmp_path, replace(own, step=2))
    prune(tmp_path, save(tmp_path, own), 1, run="own")
    assert [step_of(folder) for folder in list_checkpoints(tmp_path)] == [1, 2, 4]
    assert read_manifest(tmp_path / "step_000000004").provenance["run"] == "own"
