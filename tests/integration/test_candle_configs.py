"""Configurations of transformer_candle: each of the 51 keys is read and changes the run.

A run of four updates is the base. Each row of KEYS changes one key and names what must come out differently; the
figures of a run are listed in `Outcome`.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import make_text
from tests.prepared import dataset_folder, prepare

from candlewick.artifacts.manifest import read_manifest
from candlewick.checkpoint.safetensors import read_tensors
from candlewick.cli.main import main
from candlewick.compat.candle.settings import CandleDialect
from candlewick.config.formats import write_toml
from candlewick.config.load import load_config
from candlewick.runs.complete import open_training_data
from candlewick.runs.resolve import Request
from candlewick.runs.train import run_training
from candlewick.tokenizer.train import train_tokenizer
from candlewick.train.monitor.trackers import TensorBoardTracker

Json = dict[str, Any]


@dataclass
class Outcome:
    """What a run did."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    weights: float = 0.0
    steps: int = 0
    rates: list[float] = field(default_factory=list)
    rows: tuple[int, int, int] = (0, 0, 0)  # per update, per pass, tokens of one
    validation: int = 0  # tokens held out
    workers: int = 0
    cache: str = ""
    train_rows: int = 0
    evaluations: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)
    best: list[str] = field(default_factory=list)
    board: list[str] = field(default_factory=list)
    flushes: int = 0
    shown: bool = False
    vocabulary: str = ""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with texts and a tokenizer, and the cache that the runs share."""
    folder = tmp_path_factory.mktemp("candle")
    for number in range(3):
        (folder / f"text{number}.txt").write_text(make_text(number, 3000))
    (folder / "short.txt").write_text(make_text(9, 250))
    for name, size in (("tokenizer", 300), ("other", 310)):
        (folder / name).mkdir()
        tokenizer, _ = train_tokenizer([make_text(0, 3000)], vocab_size=size)
        tokenizer.write(folder / name)
        model = json.loads(tokenizer.json_bytes)["model"]
        (folder / name / "vocab.json").write_text(json.dumps(model["vocab"]))
        lines = [" ".join(pair) for pair in model["merges"]]
        (folder / name / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines))
    (folder / "few.txt").write_text("\n".join(lines[:20]))
    (folder / "more.txt").write_text("# special tokens\n<|endoftext|>\n")
    return folder


def base() -> Json:
    """The settings of the base run as transformer_candle would have them, relative to their file."""
    return {
        "model": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 32,
            "rope_mode": "on_the_fly",
        },
        "tokenizer": {"tokenizer_json": "tokenizer/tokenizer.json"},
        "data": {"train_shards": ["text0.txt"], "batch_size": 4, "cache_dir": "cache", "num_workers": 1},
        "optimizer": {"algorithm": "adam_w", "learning_rate": 1e-2},
        "scheduler": {"strategy": "constant", "total_steps": 4},
        "runtime": {
            "precision": "fp32",
            "log_every_n_steps": 1,
            "checkpoint": {"every_n_steps": 2},
            "evaluation": {"every_n_steps": 2, "max_batches": 2, "best": {}},
            "logging": {"enable_stdout": False, "tensorboard": "board"},
        },
    }


def changed(tree: Json, key: str, value: Any) -> Json:
    """Return the tree with a value at a dotted key; `...` takes the key away."""
    head, _, rest = key.partition(".")
    if rest:
        return {**tree, head: changed(tree.get(head, {}), rest, value)}
    return {name: v for name, v in tree.items() if name != head} if value is ... else {**tree, head: value}


def run(place: Path, tree: Json, run_dir: Path, monkeypatch, capsys) -> Outcome:
    """Train with the settings, and look at everything that came out."""
    tree = changed(tree, "runtime.sample", None)  # not transformer_candle's; takes time
    tree = changed(tree, "runtime.device", "cpu")
    board = changed(tree, "x", 0)["runtime"]["logging"].get("tensorboard")
    path = place / f"{run_dir.parent.name}.json"
    path.write_text(json.dumps(tree).replace("RUN", run_dir.parent.name))
    config = load_config(path, dialect=CandleDialect())
    flushes: list[int] = []
    real = TensorBoardTracker.flush
    monkeypatch.setattr(TensorBoardTracker, "flush", lambda self: (flushes.append(1), real(self))[1])
    capsys.readouterr()
    result = run_training(config, run_dir, resume=False)
    output = capsys.readouterr()
    prepared = prepare(config, run_dir, Request(resume="if_available"))
    data = open_training_data(prepared)
    dataset = dataset_folder(data.train[0])
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    own = config.runtime.checkpoint.directory or run_dir / "checkpoints"
    best = config.runtime.evaluation.best
    best_folder = (best.directory if best else None) or run_dir / "best"
    newest = sorted(own.glob("step_*"))[-1]
    tensors = read_tensors(newest / "model.safetensors")
    last = [row for row in rows if "train/loss" in row]
    folder = place / board if isinstance(board, str) else run_dir / "tensorboard"
    return Outcome(
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        weights=sum(tensor.double().abs().sum().item() for tensor in tensors.values()),
        steps=result["steps"],
        rates=[row["optim/learning_rate"] for row in last],
        rows=(result["tokens"] // result["steps"], config.data.micro_batch_size, config.sequence_length),
        validation=data.validation.num_tokens,
        workers=read_manifest(dataset).provenance["workers"],
        cache=str(dataset.parent),
        train_rows=len(last),
        evaluations=[row["step"] for row in rows if "eval/loss" in row],
        losses=[row["eval/loss"] for row in rows if "eval/loss" in row],
        checkpoints=sorted(f"{path.parent.name}/{path.name}" for path in own.glob("step_*")),
        best=sorted(f"{path.parent.name}/{path.name}" for path in best_folder.glob("step_*")),
        board=sorted(path.parent.name for path in folder.glob("events*")) if folder.is_dir() else [],
        flushes=len(flushes),
        shown="saved" in output.err + output.out,
        vocabulary=prepared.tokenizer.sha256,
    )


TWO_FILES = {
    "tokenizer.tokenizer_json": ...,
    "tokenizer.vocab": "tokenizer/vocab.json",
    "tokenizer.merges": "tokenizer/merges.txt",
}
SHORT = {"data.train_shards": ["short.txt"], "data.validation_shards": ["text2.txt"]}
LONG = {**SHORT, "scheduler.total_steps": 12}
KEYS: dict[str, tuple[Any, str, Json]] = {  # key: value, what comes out differently, other changes of both runs
    "model.hidden_size": (64, "shapes", {}),
    "model.intermediate_size": (64, "shapes", {}),
    "model.num_layers": (1, "shapes", {}),
    "model.num_attention_heads": (2, "weights", {}),
    "model.num_key_value_heads": (2, "shapes", {}),
    "model.max_position_embeddings": (16, "rows", {}),
    "model.vocab_size": (512, "shapes", {}),
    "model.attn_dropout": (0.5, "weights", {}),
    "model.residual_dropout": (0.5, "weights", {}),
    "model.rope_mode": ("disabled", "weights", {}),
    "model.rope_theta": (100.0, "weights", {}),
    "tokenizer.tokenizer_json": ("other/tokenizer.json", "vocabulary", {}),
    "tokenizer.vocab": ("other/vocab.json", "vocabulary", {**TWO_FILES, "tokenizer.merges": "few.txt"}),
    "tokenizer.merges": ("few.txt", "vocabulary", TWO_FILES),
    "tokenizer.special_tokens": ("more.txt", "vocabulary", TWO_FILES),
    "data.train_shards": (["text1.txt"], "weights", {}),
    "data.validation_shards": (["text2.txt"], "validation", {}),
    "data.batch_size": (8, "rows", {}),
    "data.gradient_accumulation_steps": (2, "rows", {}),
    "data.shuffle_buffer_size": (8, "weights", {}),
    "data.num_workers": (2, "workers", {"data.cache_dir": "fresh-RUN"}),
    "data.cache_dir": ("elsewhere", "cache", {}),
    "data.sequence_length": (16, "rows", {}),
    "optimizer.algorithm": ("sgd", "weights", {}),
    "optimizer.learning_rate": (1e-3, "rates", {}),
    "optimizer.weight_decay": (0.5, "weights", {}),
    "optimizer.beta1": (0.5, "weights", {}),
    "optimizer.beta2": (0.5, "weights", {}),
    "optimizer.epsilon": (1e-2, "weights", {}),
    "optimizer.max_grad_norm": (1e-3, "weights", {"optimizer.epsilon": 1e-2}),
    "scheduler.strategy": ("cosine", "rates", {}),
    "scheduler.warmup_steps": (3, "rates", {}),
    "scheduler.total_steps": (6, "steps", {}),
    "scheduler.total_epochs": (2, "steps", {**SHORT, "scheduler.total_steps": ..., "scheduler.total_epochs": 1}),
    "scheduler.min_lr": (5e-3, "rates", {"scheduler.strategy": "cosine"}),
    "scheduler.max_lr": (2e-2, "rates", {"optimizer.learning_rate": ...}),
    "runtime.seed": (43, "weights", {}),
    "runtime.precision": ("bf16", "weights", {}),
    "runtime.log_every_n_steps": (2, "train_rows", {}),
    "runtime.checkpoint.directory": ("kept", "checkpoints", {}),
    "runtime.checkpoint.every_n_steps": (1, "checkpoints", {}),
    "runtime.checkpoint.every_n_epochs": (1, "checkpoints", {**LONG, "runtime.checkpoint.every_n_steps": ...}),
    "runtime.checkpoint.max_keep": (1, "checkpoints", {"runtime.evaluation.best": ...}),
    "runtime.evaluation.every_n_steps": (1, "evaluations", {}),
    "runtime.evaluation.every_n_epochs": (1, "evaluations", {**LONG, "runtime.evaluation.every_n_steps": ...}),
    "runtime.evaluation.max_batches": (1, "losses", {"data.validation_shards": ["text2.txt"]}),
    "runtime.evaluation.best.directory": ("finest", "best", {}),
    "runtime.evaluation.best.max_keep": (
        2,
        "best",
        {"runtime.evaluation.best.max_keep": 1, "runtime.evaluation.best.directory": "finest"},
    ),
    "runtime.logging.enable_stdout": (True, "shown", {}),
    "runtime.logging.tensorboard": ("board2", "board", {}),
    "runtime.logging.tensorboard_flush_every_n": (1, "flushes", {}),
}  # fmt: skip


def test_table_has_every_key_of_transformer_candle():
    assert len(KEYS) == 51


@pytest.mark.parametrize("key", KEYS)
def test_changed_key_changes_the_run(key, place, tmp_path, monkeypatch, capsys):
    value, differs, others = KEYS[key]
    tree = base()
    for name, other in others.items():
        tree = changed(tree, name, other)
    before = run(place, tree, tmp_path / "before" / "run", monkeypatch, capsys)
    after = run(place, changed(tree, key, value), tmp_path / "after" / "run", monkeypatch, capsys)
    assert getattr(before, differs) != getattr(after, differs), (
        f"{differs} is {getattr(after, differs)} both times"
    )


PROFILES = {  # A.9 as transformer_candle wrote them: batch / accumulation, and what that is in our words
    "m3_medium": ("yaml", 6, 1, 6, 6),
    "rtx5090_550m": ("toml", 64, 16, 64, 4),
    "runpod_1b": ("json", 2, 32, 64, 2),
    "runpod_4b": ("yml", 1, 256, 256, 1),
    "m3_20m_streaming": ("", 32, 32, 32, 1),
}


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_of_transformer_candle_are_read_and_printed(name, tmp_path, capsys):
    suffix, batch, accumulation, rows, micro = PROFILES[name]
    tree = base()
    tree["data"] |= {"batch_size": batch, "gradient_accumulation_steps": accumulation}
    del tree["runtime"]["logging"]["tensorboard"]
    text = {"json": json.dumps, "toml": write_toml, "": write_toml}.get(suffix, yaml.safe_dump)(tree)
    path = tmp_path / (f"{name}.{suffix}" if suffix else name)
    path.write_text(text)
    assert main(["config", "show", "--config", str(path), "--format", "json"]) == 0
    output = capsys.readouterr()
    config = json.loads(output.out)
    assert (config["data"]["global_batch_size"], config["data"]["micro_batch_size"]) == (rows, micro)
    assert config["data"]["train_shards"] == [str(tmp_path / "text0.txt")]
    assert config["data"]["documents"] == "line"
    assert (config["optimizer"]["decay"], config["optimizer"]["max_grad_norm"]) == ("all", None)
    assert "note: " in output.err
    assert f"global_batch_size={rows}, micro_batch_size={micro}" in output.err
    assert re.search(r"intermediate_size=48 is kept: .* intermediate_size: 64 gives", output.err)
    # what was shown is a configuration of ours that means the same, without a note
    (tmp_path / "ours.json").write_text(output.out)
    assert main(["config", "show", "--config", str(tmp_path / "ours.json"), "--format", "json"]) == 0
    again = capsys.readouterr()
    assert (json.loads(again.out), again.err) == (config, "")


def test_streaming_config_in_the_folder_of_a_configuration_names_the_text(
    tmp_path, tiny, config_file, hub, capsys
):
    texts = "".join(f"{json.dumps({'text': make_text(i, 60)})}\n" for i in range(150))
    written = {"dataset": "me/web", "split": "train", "max_samples": 120, "stream_batch_size": 512}
    (tmp_path / "streaming_config.json").write_text(json.dumps(written))
    words = [
        "train",
        "--config",
        config_file(tiny(scheduler={"total_steps": 2})),
        "--run-dir",
        str(tmp_path / "run"),
    ]
    hub.commit("datasets/me/web", {"data/0.jsonl": texts.encode()})
    assert main([*words, "--override", "data.cache_dir=cache"]) == 0
    assert "streaming_config.json is read: data.train_shards=[" in capsys.readouterr().err
    hub.requests.clear()
    assert main(["train", "--run-dir", str(tmp_path / "run"), "--resume"]) == 0  # sealed in the run's own config
    assert not hub.requests
