"""Checkpoint.open verifies the needed files once and names what is wrong with a rejected folder."""

import json
import logging
import os
from dataclasses import replace

import pytest
import torch

from candlewick.artifacts import manifest as manifest_module
from candlewick.checkpoint.open import Checkpoint
from candlewick.checkpoint.save import save
from candlewick.errors import CheckpointError, TokenizerError


@pytest.fixture
def folder(make_snapshot, tmp_path):
    """A checkpoint of step 3 in a run folder."""
    return save(tmp_path / "run" / "checkpoints", make_snapshot(3))


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files that are hashed from now on."""
    names = []
    file_sha256 = manifest_module.file_sha256
    monkeypatch.setattr(manifest_module, "file_sha256", lambda path: names.append(path.name) or file_sha256(path))
    return names


def test_open_hashes_each_needed_file_once_and_reading_hashes_nothing(folder, hashed):
    checkpoint = Checkpoint.open(folder.parents[1], need={"weights", "optimizer"})
    _ = checkpoint.weights(), checkpoint.optimizer(), checkpoint.state, checkpoint.tokenizer, checkpoint.shape
    assert sorted(hashed) == sorted(path.name for path in folder.rglob("*.*") if path.name != "manifest.json")


def test_open_for_weights_does_not_read_the_optimizer(folder, hashed):
    checkpoint = Checkpoint.open(folder, need={"weights"})
    assert "optimizer.safetensors" not in hashed
    assert checkpoint.state["version"] == 1


def test_open_for_weights_allows_a_missing_state_but_no_damaged_state(folder):
    (folder / "training/optimizer.safetensors").unlink()
    (folder / "training/state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="state.json has 2 bytes"):
        Checkpoint.open(folder, need={"weights"})
    (folder / "training/state.json").unlink()
    assert Checkpoint.open(folder, need={"weights"}).config is None
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors is missing"):
        Checkpoint.open(folder, need={"weights", "optimizer"})


def test_open_takes_the_newest_valid_checkpoint_and_logs_the_rejected_folder(make_snapshot, folder, caplog):
    newest = save(folder.parent, make_snapshot(4))
    (newest / "model.safetensors").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert Checkpoint.open(folder.parents[1], need={"weights"}).folder == folder
    assert "step_000000004/model.safetensors" in caplog.text
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no valid .*: step_000000004, step_000000003 rejected"):
        Checkpoint.newest(folder.parent, need={"weights"})


def test_checkpoint_returns_the_saved_shape_weights_and_optimizer(make_snapshot, folder):
    checkpoint, snapshot = Checkpoint.open(folder, need={"weights", "optimizer"}), make_snapshot(3)
    assert checkpoint.shape == (snapshot.model_config, snapshot.vocab_size)
    assert checkpoint.manifest is not None
    assert checkpoint.id == checkpoint.manifest.id
    for read, saved in ((checkpoint.weights(), snapshot.weights), (checkpoint.optimizer(), snapshot.optimizer)):
        assert read.keys() == saved.keys()
        assert all(torch.equal(read[name], tensor) for name, tensor in saved.items())


def test_checkpoint_config_of_another_version_is_refused(folder):
    (folder / "manifest.json").unlink()
    state = json.loads((folder / "training/state.json").read_bytes())
    (folder / "training/state.json").write_text(json.dumps({**state, "config": {"model": {"moon": 1}}}))
    with pytest.raises(CheckpointError, match="holds settings that this version does not read"):
        _ = Checkpoint.open(folder, need={"weights"}).config


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "is not the state of a run"),
        ("{}", "has format version None, this program reads 1"),
        ('{"version": 2}', "has format version 2"),
        ('{"version": 1, "loader": {}, "threads": 1}', "lacks config, counters, random"),
        ('{"version": 1, "loader": {"x": NaN}}', "cannot be read"),
        ('{"version": 1, "loader": {"x": 1e999}}', "cannot be read"),
        (
            '{"version": 1, "loader": [], "threads": null, "counters": 5, "random": "00", "config": []}',
            "lacks config, counters, loader, random, threads or has them in another form",
        ),
    ],
)
def test_read_state_refuses_a_missing_or_malformed_state_file(folder, content, said):
    (folder / "training/state.json").unlink()
    if content is not None:
        (folder / "training/state.json").write_text(content)
    with pytest.raises(CheckpointError, match=said):
        _ = Checkpoint(folder, None).state


def test_newest_checkpoint_of_another_run_is_refused_with_both_ids(make_snapshot, tmp_path):
    save(tmp_path, replace(make_snapshot(1), run="one"))
    assert Checkpoint.newest(tmp_path, need={"weights"}, run="one").run == "one"
    assert Checkpoint.newest(tmp_path, need={"weights"}).run == "one"
    with pytest.raises(CheckpointError, match="step_000000001 belongs to run one, and is not one of run two"):
        Checkpoint.newest(tmp_path, need={"weights"}, run="two")
    save(tmp_path, make_snapshot(2))  # of an older version
    assert Checkpoint.newest(tmp_path, need={"weights"}, run="two").run is None


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "training/state.json", "tokenizer.json"])
@pytest.mark.parametrize("make_path", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_pipe_or_device_in_the_folder_of_another_program_is_refused_at_once(folder, name, make_path):
    (folder / "manifest.json").unlink()
    (folder / name).unlink()
    make_path(folder / name)
    with pytest.raises((CheckpointError, TokenizerError), match="no regular file|exist|no finished"):
        checkpoint = Checkpoint.open(folder, need={"weights"})
        _ = checkpoint.weights(), checkpoint.tokenizer, checkpoint.state


def test_sparse_file_of_two_gigabytes_is_refused_without_its_memory(folder):
    (folder / "manifest.json").unlink()
    for path in (folder / "config.json", folder / "training" / "state.json"):
        os.truncate(path, 2 << 30)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read: .*larger than"):
        _ = Checkpoint(folder, None).shape
    with pytest.raises(CheckpointError, match=r"state\.json cannot be read: .*larger than"):
        _ = Checkpoint(folder, None).state


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(make_snapshot, tmp_path, value):
    """Those of a run that diverged, in another program or an older version."""
    snapshot = make_snapshot(1)
    snapshot.weights["model.norm.weight"][3] = value
    checkpoint = Checkpoint.open(save(tmp_path, snapshot), need={"weights"})
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is not finite everywhere.*use an earlier one"):
        checkpoint.weights()
