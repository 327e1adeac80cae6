"""Cloud mode: preparation in shared folders, repeated calls, training elsewhere, the boot script of the pod."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from tests.conftest import make_text
from tests.hub_server import HubServer
from tests.unit.runs.test_sharding import write_candle_shards

from candlewick.artifacts.manifest import read_manifest
from candlewick.checkpoint.layout import list_checkpoints
from candlewick.cli.main import main
from candlewick.config.load import profiles, read_profile

ROOT = Path(__file__).resolve().parents[2]
ROOTS = {
    "RUNS": "runs",
    "CACHE": "cache",
    "TOKENIZER": "artifacts",
    "TRAIN": "train",
    "VAL": "val",
    "HF_CACHE": "hf",
}


@pytest.fixture
def roots(tmp_path, monkeypatch):
    """The folders of a machine in the cloud, with an experiment named `small`."""
    for name, folder in ROOTS.items():
        monkeypatch.setenv(f"ORCHESTRATE_{name}_ROOT", str(tmp_path / folder))
    for name in ("HF_HOME", "HF_HUB_CACHE"):  # set by the command, and taken back after the test
        monkeypatch.setenv(name, str(tmp_path / "before"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small(tiny, roots):
    """A configuration without text, and two updates."""
    tree = tiny(scheduler={"total_steps": 2, "warmup_steps": 1}, data={"documents": "line"}).model_dump(
        mode="json"
    )
    tree["data"]["train_shards"], tree["data"]["validation_fraction"] = [], 0.1
    tree["data"]["cache_dir"] = None
    (roots / "small.yaml").write_text(yaml.safe_dump(tree))
    return str(roots / "small.yaml")


def cloud(config, *words) -> int:
    return main(["orchestrate", "--mode", "cloud", "--config", config, *words])


def contents(*folders):
    return {p: p.stat().st_mtime_ns for folder in folders for p in folder.rglob("*") if p.is_file()}


def test_cloud_run_is_prepared_once_and_trained(roots, small, text_dir, capsys, monkeypatch):
    assert cloud(small, "--input", str(text_dir), "--train-shard-lines", "700") == 0
    first, run = capsys.readouterr().out.splitlines(), roots / "runs" / "small"
    assert [line.split()[0] for line in first] == [
        *("shards", "shards", "tokenizer", "tokens", "validation", "ready", "next:")
    ]
    assert first[-1] == f"next: candlewick train --config {run}/training.yaml"
    assert " parameters, 2 updates" in first[-2]
    assert not (run / "checkpoints").exists()
    assert {p.name for p in run.iterdir()} == {
        *("LOCK", "log.txt", "special_tokens.txt", "tokenizer", "tokens"),
        *("training.toml", "training.yaml", "validation"),
    }
    made = read_manifest(roots / "train" / "small")
    assert made.details["lines_per_shard"] == 700
    held = read_manifest(roots / "val" / "small").details["total_lines"]
    assert 0 < held < made.details["total_lines"]
    assert read_manifest(run / "validation").details["splits"]["validation"]["documents"] == held

    assert cloud(small, "--input", str(text_dir)) == 2
    assert "holds shards already (fix: give --reuse-shards" in capsys.readouterr().err
    places = [run / name for name in ("tokens", "validation", "tokenizer")]
    places += [roots / name for name in ("train", "val", "artifacts")]
    before = contents(*places)
    assert cloud(small, "--reuse-shards", "--json") == 0
    assert contents(*places) == before
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert captured.err.count("reused") == 5
    assert result["steps"] == 2
    assert result["tokens"] == {name: read_manifest(run / name).id for name in ("tokens", "validation")}

    elsewhere = roots / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert main(result["command"][1:]) == 0
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["step_000000002"]
    assert (run / "best").is_dir()
    assert not any(elsewhere.iterdir())
    capsys.readouterr()
    # now there is a run to go on with
    assert cloud(small, "--reuse-shards", "--resume") == 0
    assert capsys.readouterr().out.endswith(" --resume\n")
    assert cloud(small, "--reuse-shards", "--seed", "1") == 2
    assert "was written with other settings: runtime.seed (was 42, is 1)" in capsys.readouterr().err
    before = contents(*places)
    assert cloud(small, "--force-reshard") == 2
    assert "holds a run on the shards there are (fix: choose another --experiment)" in capsys.readouterr().err
    assert contents(*places) == before


def test_cloud_run_reuses_shards_of_transformer_candle(roots, small, text_dir, capsys):
    lines = [path.read_text() for path in sorted(text_dir.iterdir())]
    write_candle_shards(roots / "train" / "e", {"train_0000.txt": lines[0], "train_0001.txt": lines[1]})
    write_candle_shards(roots / "val" / "e", {"val_0000.txt": lines[2]}, "val")
    assert cloud(small, "--experiment", "e", "--reuse-shards") == 0
    tokens = read_manifest(roots / "runs" / "e" / "tokens").details["splits"]
    assert tokens["train"]["documents"] == sum(text.count("\n") for text in lines[:2])
    assert tokens["validation"]["documents"] == 0  # validation has text of its own
    held = read_manifest(roots / "runs" / "e" / "validation").details["splits"]["validation"]
    assert held["documents"] == lines[2].count("\n")
    assert json.loads((roots / "train" / "e" / "manifest.json").read_text())["total_shards"] == 2
    with (roots / "train" / "e" / "train_0001.txt").open("a") as file:
        file.write("more\n")
    capsys.readouterr()
    assert cloud(small, "--experiment", "e", "--reuse-shards") == 3
    assert "train_0001.txt has " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "there is no text to train on (fix: set data.train_shards"),
        (["--reuse-shards"], 2, "there is no text to train on"),
        (["--input", "TEXT", "--skip-tokenizer"], 2, "--skip-tokenizer, but there is none in"),
        (["--input", "TEXT", "--resume"], 3, "no checkpoint in"),
        (["--input", "missing"], 3, "does not exist"),
        (["--override", "data.sequence_length=64"], 2, "exceeds model.max_position_embeddings=32"),
        (
            ["--input", "TEXT", "--override", "data.global_batch_size=6"],
            2,
            "not a multiple of 1 ranks x micro_batch_size 4",
        ),
        (["--input", "TEXT", "--override", "model.vocab_size=290"], 2, "smaller than the tokenizer's 300"),
        (["--input", "TEXT", "--override", "data.max_repetitions=1e-9"], 2, "would be read"),
        (["--input", "TEXT", "--override", f"runtime.sample.prompts=[{'x ' * 40}]"], 2, "the model reads 32"),
    ],
)
def test_cloud_preparation_refuses_what_training_would_refuse(roots, small, text_dir, capsys, words, code, said):
    text = str(text_dir / "00.txt")
    assert cloud(small, *(text if word == "TEXT" else word for word in words)) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert "next:" not in captured.out


def test_cloud_preparation_refuses_a_disk_without_room_for_a_checkpoint(
    roots, small, text_dir, capsys, monkeypatch
):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=9))
    assert cloud(small, "--input", str(text_dir / "00.txt")) == 4
    assert "MiB free, checkpoints need" in capsys.readouterr().err


@pytest.fixture
def hub(hub: HubServer) -> HubServer:
    """A dataset on the Hub: four files of 50 documents."""
    files = {
        f"data/{n}.jsonl": "".join(f"{json.dumps({'text': make_text(100 * n + i, 60)})}\n" for i in range(50))
        for n in range(4)
    }
    hub.commit("datasets/me/web", {name: text.encode() for name, text in files.items()})
    return hub


def test_stream_is_prepared_to_its_budget_and_trained(roots, small, hub, capsys):
    words = ["orchestrate", "--config", small, "--stream", "--dataset", "me/web", "--stream-batch-size", "9"]
    assert main([*words, "--steps", "3", "--run-dir", "streamed"]) == 0
    captured = capsys.readouterr()
    assert "--stream-batch-size changes nothing" in captured.err
    assert "training   made: " in captured.out
    made = read_manifest(roots / "streamed" / "tokens").details["splits"]["train"]
    assert made["tokens"] >= 3 * 4 * 32
    assert made["documents"] < 200  # no more than the schedule reads, in whole tasks
    # sealed: the Hub may be gone
    hub.commit("datasets/me/web", {"README.md": b"gone"})
    assert (
        main(["train", "--config", "streamed/training.yaml", "--resume", "--override", "scheduler.total_steps=4"])
        == 0
    )
    assert list_checkpoints(roots / "streamed" / "checkpoints")[-1].name == "step_000000004"


def test_stream_in_cloud_mode_is_prepared_only(roots, small, hub, capsys):
    words = ["--stream", "--dataset", "me/web", "--max-samples", "120", "--override", "scheduler.total_epochs=1"]
    assert cloud(small, *words, "--reuse-shards") == 0
    captured = capsys.readouterr()
    assert "--reuse-shards changes nothing: text becomes shards" in captured.err
    assert "next: candlewick train" in captured.out
    tokens = read_manifest(roots / "runs" / "small" / "tokens").details["splits"]
    assert tokens["train"]["documents"] + tokens["validation"]["documents"] == 120
    assert not (roots / "train").exists()
    assert not (roots / "runs" / "small" / "checkpoints").exists()
    first = (roots / "artifacts" / "small" / "manifest.json").stat().st_mtime_ns
    assert cloud(small, *words, "--force-retrain-tokenizer") == 0
    assert (roots / "artifacts" / "small" / "manifest.json").stat().st_mtime_ns > first


def test_hub_dataset_becomes_shards_in_cloud_mode(roots, small, hub):
    words = ["--input", "hf://datasets/me/web/data/1.jsonl", "--override", "data.max_documents=40"]
    assert cloud(small, *words) == 0
    totals = [read_manifest(roots / side / "small").details["total_lines"] for side in ("train", "val")]
    assert sum(totals) == 40


@pytest.fixture
def boot(roots, small):
    """Run the boot sequence as a pod does, with `candlewick` on its path; return its exit code and output."""
    tools = roots / "bin"
    tools.mkdir()
    (tools / "candlewick").write_text(
        f'#!/bin/sh\ncase $1 in orchestrate) exec {sys.executable} -m candlewick "$@" $SMALLER ;; esac\n'
        f'exec {sys.executable} -m candlewick "$@"\n'
    )
    (tools / "candlewick").chmod(0o755)

    def run(**variables):
        path = f"{tools}:{os.environ['PATH']}"
        variables = {"RUN_CONFIG": small, "SHARD_LINES": "100", **variables}
        env = {**os.environ, "SMALLER": "", "PATH": path, "PYTHONPATH": str(ROOT / "src"), **variables}
        script = ROOT / "infra" / "runpod" / "boot.sh"
        done = subprocess.run([script], cwd=roots, env=env, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return run


def test_pod_shards_prepares_trains_and_resumes_after_a_restart(boot, roots, text_dir):
    words = {"RUN_LOADER_WORKERS": "1", "RUN_VAL_RATIO": "0.2"}
    code, said = boot(**words, RUN_SOURCE=str(text_dir / "00.txt"))
    assert (code, "done: 2 steps" in said) == (0, True), said
    assert read_manifest(roots / "train" / "small").details["lines_per_shard"] == 100
    assert read_manifest(roots / "val" / "small").details["total_lines"] > 0
    code, said = boot(**words, RUN_SHARD="0")
    assert (code, "done: 2 steps" in said) == (0, True), said
    assert said.count("reused") == 5


def test_pod_accepts_the_path_of_a_profile_of_transformer_candle(boot, roots, text_dir):
    words = {
        "RUN_CONFIG": "configs/local.yaml",
        "RUN_EXPERIMENT": "e",
        "RUN_TRAIN": "0",
        "RUN_MAX_DOCUMENTS": "150",
    }
    code, said = boot(**words, RUN_SOURCE=str(text_dir), RUN_VAL_RATIO="0.2")
    assert code == 0, said
    assert sum(read_manifest(roots / side / "e").details["total_lines"] for side in ("train", "val")) == 150
    assert f"next: candlewick train --config {roots}/runs/e/training.yaml\n" in said


SMALLER = {  # a copy of any profile that trains in a second
    "model": "hidden_size=32 num_layers=1 num_attention_heads=2 intermediate_size=48 vocab_size=null".split(),
    "tokenizer": ["vocab_size=300"],
    "data": ["global_batch_size=4", "micro_batch_size=4", "sequence_length=32"],
    "scheduler": ["total_steps=2", "warmup_steps=1"],
    "runtime": ["device=cpu", "sample=null"],
}


@pytest.mark.parametrize("name", profiles())
def test_pod_trains_every_shipped_profile_under_any_experiment(boot, roots, text_dir, name):
    words = [f"--override {section}.{word}" for section, values in SMALLER.items() for word in values]
    is_cloud, experiment = "/workspace" in read_profile(name), "my-first.run"
    if not is_cloud:  # shards of transformer_candle are there
        write_candle_shards(roots / "train" / experiment, {"train_0000.txt": (text_dir / "01.txt").read_text()})
    code, said = boot(
        RUN_CONFIG=name,
        RUN_EXPERIMENT=experiment,
        RUN_SOURCE=str(text_dir / "00.txt"),
        RUN_SHARD=str(int(is_cloud)),
        RUN_LOADER_WORKERS="1",
        RUN_VAL_RATIO="0.2" if name != "runpod_2b" else "0",
        RUN_TRAIN=str(int(name == "runpod_1b")),
        SMALLER=" ".join(words),
    )
    assert (code, "done: 2 steps" in said) == (0, name == "runpod_1b"), said
    assert f"next: candlewick train --config {roots}/runs/{experiment}/training.yaml" in said
    assert {path.name for path in (roots / "runs").iterdir()} == {experiment}
    assert (roots / "artifacts" / experiment / "tokenizer.json").is_file()
    assert read_profile(name).count(f"/{name}") == 3 * is_cloud  # one spelling: of the profile and of its folders


def test_pod_with_validation_ratio_zero_holds_out_nothing(boot, roots, text_dir):
    code, said = boot(RUN_SOURCE=str(text_dir), RUN_VAL_RATIO="0.0", RUN_TRAIN="0", RUN_LOADER_WORKERS="1")
    assert (code, (roots / "val").exists()) == (0, False), said
    assert read_manifest(roots / "train" / "small").details["mode"] == "prod"


def test_pod_stops_at_the_first_failed_step(boot, roots):
    code, said = boot()
    assert code != 0
    assert "say what to shard, or set RUN_SHARD=0" in said
    code, said = boot(RUN_SOURCE="missing.txt")
    assert code == 3
    assert said.count("error:") == 1
    assert not (roots / "runs").exists()


def test_hub_downloads_go_to_the_folder_of_the_environment(roots, small, text_dir):
    code = (
        "from candlewick.cli.environment import cloud_roots, use_hub\n"
        "use_hub(home=cloud_roots()['HF_CACHE'])\n"
        "from huggingface_hub import constants\n"
        "print(constants.HF_HOME, constants.HF_HUB_CACHE)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(roots / "hf"), str(roots / "hf" / "hub")]
