"""Mistakes and damage that a user meets: a one-line error with the fix, the exit code, no file lost."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from candlewick.artifacts.build import hold_folder
from candlewick.artifacts.manifest import MANIFEST
from candlewick.checkpoint.layout import list_checkpoints
from candlewick.checkpoint.safetensors import read_tensors
from candlewick.cli.main import main
from candlewick.train.trainer import Trainer


@pytest.fixture
def fails(run_candlewick):
    """Run a command that must fail; return the line that says why."""

    def run(code: int, *words: object) -> str:
        err = run_candlewick(*words, code=code).err
        lines = [line for line in err.splitlines() if line.startswith("error:")]
        assert len(lines) == 1, err
        assert "Traceback" not in err
        assert re.search(r"\(fix: |did you mean|should |set ", lines[0]), lines[0]
        return lines[0]

    return run


def content(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder, but for its log and its lock."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("log.txt", "LOCK")
    }


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    """Cut a file in half."""
    os.truncate(path, path.stat().st_size // 2)


# a setting, a path


@pytest.mark.parametrize("verb", ["train", "orchestrate"])
def test_missing_config_exits_2(fails, tmp_path, verb):
    assert "nowhere.yaml" in fails(2, verb, "--config", tmp_path / "nowhere.yaml", "--run-dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("optimizer.lerning_rate=1e-3", "learning_rate"),
        ("data.micro_batch_size=many", "data.micro_batch_size"),
        ("scheduler.total_steps=-1", "scheduler.total_steps"),
        ("model.num_key_value_heads=5", "not a multiple"),
        ("no_value", "KEY=VALUE"),
        ("scheduler.total_steps=null", "no end"),
        ("data.global_batch_size=6", "is not a multiple of"),
        ("data.train_shards=[]", "no text to train on"),
    ],
)
def test_wrong_setting_exits_2(fails, tiny, config_file, tmp_path, setting, said):
    line = fails(2, "train", "--config", config_file(tiny()), "--run-dir", tmp_path / "run", "--override", setting)
    assert said in line
    assert not list_checkpoints(tmp_path / "run" / "checkpoints")


def test_several_wrong_settings_are_reported_in_one_line(fails, tiny, config_file, tmp_path):
    path = config_file(tiny())
    text = Path(path).read_text().replace("momentum", "momentun").replace("seed: 42", "seed: forty-two")
    Path(path).write_text(text)
    line = fails(2, "train", "--config", path, "--run-dir", tmp_path / "run")
    assert "optimizer.momentun" in line
    assert "runtime.seed" in line
    assert f"{path}:" in line


def test_vocabulary_smaller_than_the_tokenizer_exits_2(fails, tiny, config_file, tmp_path):
    line = fails(
        2, "train", "--config", config_file(tiny()), "--run-dir", tmp_path, "--override", "model.vocab_size=299"
    )
    assert "model.vocab_size=299" in line
    assert "300" in line


def test_missing_or_empty_text_exits_3(fails, tiny, config_file, tmp_path):
    config = config_file(tiny())
    (tmp_path / "empty.txt").touch()
    (tmp_path / "folder").mkdir()
    for name, said in (("gone.txt", "gone.txt"), ("empty.txt", "empty.txt"), ("folder", "folder")):
        shards = f"data.train_shards={json.dumps([str(tmp_path / name)])}"
        assert said in fails(3, "train", "--config", config, "--run-dir", tmp_path / "run", "--override", shards)
    assert "gone.txt" in fails(3, "demo", tmp_path / "gone.txt", "--run-dir", tmp_path / "demo")


def test_run_folder_at_a_file_exits_4(fails, tiny, config_file, tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        assert str(tmp_path / "file") in fails(4, "train", "--config", config_file(tiny()), "--run-dir", place)
        assert str(tmp_path / "file") in fails(
            4, "orchestrate", "--config", config_file(tiny()), "--run-dir", place
        )
    assert (tmp_path / "file").read_text() == "mine"


# token shards


@pytest.fixture
def tokens_copy(tokens, tmp_path) -> Path:
    """A token dataset, to damage."""
    return shutil.copytree(tokens, tmp_path / "tokens")


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
@pytest.mark.parametrize("name", ["train-00000.bin", "train-00000.idx"])
def test_a_damaged_shard_is_refused_by_name(fails, tiny, tokens_copy, config_file, tmp_path, damage, name):
    damage(tokens_copy / "shards" / name)
    config = config_file(tiny(data={**tiny().data.model_dump(mode="json"), "train_shards": [str(tokens_copy)]}))
    assert name in fails(3, "train", "--config", config, "--run-dir", tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_shards_of_another_tokenizer_are_refused(fails, tiny, tokens_copy, config_file, tmp_path, tokenizer):
    tokenizer.write(tmp_path)
    config = config_file(
        tiny(
            data={**tiny().data.model_dump(mode="json"), "train_shards": [str(tokens_copy)]},
            tokenizer={"tokenizer_json": str(tmp_path)},
        )
    )
    line = fails(3, "train", "--config", config, "--run-dir", tmp_path / "run")
    assert tokenizer.sha256[:12] in line
    assert str(tokens_copy) in line


# checkpoints


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "training/optimizer.safetensors", "training/state.json", MANIFEST]
)
def test_resume_falls_back_to_the_checkpoint_before_a_damaged_newest(
    trained, trained_copy, capsys, fails, damage, name
):
    newest = list_checkpoints(trained_copy / "checkpoints")[-1]
    damage(newest / name)
    if name == "model.safetensors":
        assert name in fails(3, "generate", newest)
    assert main(["train", "--resume", "--run-dir", str(trained_copy)]) == 0
    err = capsys.readouterr().err
    # without its manifest it is no finished checkpoint
    assert (damage, name) == (Path.unlink, MANIFEST) or f"{newest.name}/{name}" in err
    before, after = (
        read_tensors(run / "checkpoints" / newest.name / "model.safetensors") for run in (trained, trained_copy)
    )
    assert all(before[tensor].equal(after[tensor]) for tensor in before)


def test_run_with_every_checkpoint_damaged_exits_3(fails, trained_copy):
    for folder in list_checkpoints(trained_copy / "checkpoints"):
        truncate(folder / "model.safetensors")
    before = content(trained_copy)
    for words in (["train", "--resume", "--run-dir"], ["generate"], ["eval"]):
        assert "step_000000012" in fails(3, *words, trained_copy)
    assert content(trained_copy) == before


def test_generate_eval_and_resume_without_a_checkpoint_name_the_folder(fails, tmp_path):
    for verb in ("generate", "eval"):
        assert "does not exist" in fails(3, verb, tmp_path / "nowhere")
        assert "no finished checkpoint" in fails(3, verb, tmp_path)
    assert "config.yaml does not exist" in fails(2, "train", "--resume", "--run-dir", tmp_path)


@pytest.mark.parametrize(
    ("sections", "code", "said"),
    [
        (
            {"model": {"hidden_size": 64, "num_attention_heads": 2, "max_position_embeddings": 32}},
            2,
            "model.hidden_size",
        ),
        (
            {
                "model": {
                    "hidden_size": 32,
                    "num_layers": 2,
                    "num_attention_heads": 2,
                    "max_position_embeddings": 32,
                    "rope_theta": 5e5,
                }
            },
            2,
            "model.rope_theta (was 10000.0, is 500000.0)",
        ),
        (
            {"model": {"num_layers": 3, "hidden_size": 32, "max_position_embeddings": 32}},
            2,
            "model.num_layers (was 2, is 3)",
        ),
        ({"optimizer": {"algorithm": "adam_w"}}, 2, "optimizer"),
        ({"runtime": {"seed": 43}}, 2, "seed"),
    ],
    ids=["width", "rope", "layers", "optimizer", "seed"],
)
def test_resume_with_other_settings_changes_no_file(fails, tiny, trained_copy, config_file, sections, code, said):
    before = content(trained_copy)
    line = fails(code, "train", "--resume", "--config", config_file(tiny(**sections)), "--run-dir", trained_copy)
    assert said in line
    assert content(trained_copy) == before


def test_resume_on_other_text_changes_no_file(fails, tiny, trained_copy, config_file, tmp_path, text_dir):
    other = shutil.copytree(text_dir, tmp_path / "other")
    (other / "00.txt").write_text("something else " * 2000)
    before = content(trained_copy)
    config = tiny(data={**tiny().data.model_dump(mode="json"), "train_shards": [str(other)]})
    line = fails(3, "train", "--resume", "--config", config_file(config), "--run-dir", trained_copy)
    assert "dataset_id" in line
    assert content(trained_copy) == before


def test_train_in_a_folder_with_a_run_requires_resume(fails, tiny, trained_copy, config_file):
    before = content(trained_copy)
    assert "--resume" in fails(2, "train", "--config", config_file(tiny()), "--run-dir", trained_copy)
    assert content(trained_copy) == before


def test_second_process_in_a_run_folder_is_refused(fails, trained_copy):
    before = content(trained_copy)
    with hold_folder(trained_copy, "wait"):
        assert str(os.getpid()) in fails(3, "train", "--resume", "--run-dir", trained_copy)
    assert content(trained_copy) == before


def test_full_disk_ends_a_resume_without_changes(fails, tiny, trained_copy, config_file, monkeypatch):
    before = content(trained_copy / "checkpoints")
    more = ["--resume", "--run-dir", trained_copy, "--override", "scheduler.total_steps=14"]
    usage = shutil.disk_usage(trained_copy)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 10))
        assert "0 MiB free, checkpoints need 1 MiB" in fails(4, "train", *more)
    assert content(trained_copy / "checkpoints") == before
    assert main(["train", *map(str, more)]) == 0


# A limit on file sizes makes the kernel refuse a write in the middle of a file, as a full disk does.
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
from candlewick.cli.main import main
from candlewick.train.trainer import Trainer
raise SystemExit(main(sys.argv[1:]))
"""


def test_refused_write_leaves_the_checkpoints_unchanged(trained_copy):
    before = content(trained_copy / "checkpoints")
    words = ["train", "--resume", "--run-dir", trained_copy, "--override", "scheduler.total_steps=14"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *words], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 4, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "File too large" in errors[0]
    assert "what was saved before is intact" in errors[0]
    assert "Traceback" not in done.stderr
    assert content(trained_copy / "checkpoints") == before
    assert not [path for path in trained_copy.rglob("*") if path.name.startswith(".")]
    assert main([str(word) for word in words]) == 0  # without the limit the run goes on


# links, and shards that are cut under a run


@pytest.mark.parametrize("name", ["log.txt", "metrics.jsonl", "tensorboard", "LOCK", "checkpoints/journal.jsonl"])
def test_link_that_a_run_would_write_through_is_refused_by_name(fails, trained_copy, tmp_path, name):
    mine = tmp_path / "mine"
    if name == "tensorboard":
        mine.mkdir()
        (mine / "events.out.tfevents.1").write_text("mine")
    else:
        mine.write_text("mine")
    path = trained_copy / name
    path.unlink(missing_ok=True)
    path.symlink_to(mine)
    before = content(mine) if mine.is_dir() else mine.read_text()
    assert f"{path} is a link" in fails(3, "train", "--resume", trained_copy)
    assert before == (content(mine) if mine.is_dir() else mine.read_text())


def test_checkpoint_of_links_is_read_and_evaluated(trained, tmp_path, run_candlewick):
    """As the Hub's cache keeps a snapshot."""
    folder, links = list_checkpoints(trained / "checkpoints")[-1], tmp_path / "links"
    for path in filter(Path.is_file, folder.rglob("*")):
        link = links / path.relative_to(folder)
        link.parent.mkdir(exist_ok=True, parents=True)
        link.symlink_to(path)
    found, expected = (json.loads(run_candlewick("eval", place, "--json").out) for place in (links, folder))
    assert found == expected


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says that a page cannot be read")
@pytest.mark.parametrize("packing", ["chunk", "bfd"])
def test_shard_that_is_cut_under_a_run_is_one_line_and_the_run_is_saved(
    fails, tiny, tokens_copy, config_file, tmp_path, packing, monkeypatch
):
    data = {**tiny().data.model_dump(mode="json"), "train_shards": [str(tokens_copy)], "packing": packing}
    config = config_file(tiny(data=data))
    shard = tokens_copy / "shards" / "train-00000.bin"
    take = Trainer._step

    def cut(self, update):
        if self.state.step == 2:
            os.truncate(shard, 0)
        return take(self, update)

    monkeypatch.setattr(Trainer, "_step", cut)
    line = fails(3, "train", "--config", config, "--run-dir", tmp_path / "run")
    assert f"a part of {shard} cannot be read any more" in line
    newest = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    assert newest.name in ("step_000000003", "step_000000004", "step_000000005")  # batches were read ahead
