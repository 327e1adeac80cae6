"""The repository of transformer_candle, used as it lies there: its run folders, tokenizers and configurations."""

import json
import re
import shutil
from pathlib import Path

import pytest
from tests.candle import Candle
from tests.candle_project import settings, write_config, write_run, write_tokenizer
from tests.conftest import make_text
from tests.corpora import jsonl

from candlewick.cli.main import build_parser
from candlewick.terminal import shown_path
from candlewick.tokenizer.bpe import Tokenizer

WORDS = ("orchestrate", "--override", "runtime.sample=null", "--override", "runtime.device=cpu")
TINY = (
    *("--hidden-size", "32", "--intermediate-size", "64", "--layers", "1", "--heads", "2", "--seq-len", "32"),
    *(
        "--batch-size",
        "4",
        "--steps",
        "2",
        "--vocab-size",
        "300",
        "--checkpoint-every",
        "2",
        "--loader-workers",
        "1",
    ),
)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "input.txt"
    path.write_text(make_text(3, 3000))
    return path


@pytest.fixture
def orchestrated(tmp_path, text, monkeypatch, run_candlewick):
    """Orchestrate in one of the modes with the run folder `tmp_path/run`; return what is printed."""
    for name in ("RUNS", "CACHE", "TOKENIZER", "TRAIN", "VAL", "HF_CACHE"):
        monkeypatch.setenv(f"ORCHESTRATE_{name}_ROOT", str(tmp_path / name))
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)

    def run(mode, *words):
        shutil.rmtree(tmp_path / "TRAIN", ignore_errors=True)
        shutil.rmtree(tmp_path / "VAL", ignore_errors=True)
        places = ("--mode", mode, "--experiment", "e", "--run-dir", str(tmp_path / "run"))
        return run_candlewick(*WORDS, *TINY, *places, "--input", text, *words)

    return run


@pytest.mark.parametrize("mode", ["local", "cloud"])
@pytest.mark.parametrize(
    ("manifest", "split"),
    [("library", False), ("orchestrator", False), (None, False), ("library", True), (None, True)],
)
def test_tokenizer_of_transformer_candle_is_reused(orchestrated, text, tmp_path, mode, manifest, split):
    folder = write_tokenizer(tmp_path / "run" / "tokenizer", text.read_text(), manifest, split=split)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for words in (("--skip-tokenizer",), ()):
        shown = orchestrated(mode, *words).out
        assert f"tokenizer  reused, up to date: {shown_path(folder)}" in shown
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    dataset = Tokenizer.load(tmp_path / "run" / "tokens" / "tokenizer")
    assert dataset.sha256 == Tokenizer.load(folder).sha256


@pytest.mark.parametrize("mode", ["local", "cloud"])
@pytest.mark.parametrize("manifest", ["library", "orchestrator", None])
def test_tokenizer_of_transformer_candle_is_retrained_on_request(orchestrated, text, tmp_path, mode, manifest):
    folder = write_tokenizer(tmp_path / "run" / "tokenizer", text.read_text(), manifest)
    shown = orchestrated(mode, "--force-retrain-tokenizer").out
    place = folder if mode == "local" else tmp_path / "TOKENIZER" / "e"
    assert f"tokenizer  made: {shown_path(place)}" in shown
    assert json.loads((folder / "manifest.json").read_bytes())["kind"] == "tokenizer"
    assert not Tokenizer.load(folder).missing_bytes


def test_folder_with_other_files_is_not_removed_for_a_new_tokenizer(orchestrated, text, tmp_path, run_candlewick):
    folder = write_tokenizer(tmp_path / "run" / "tokenizer", text.read_text())
    (folder / "notes.md").write_text("mine")
    words = (*WORDS, *TINY, "--run-dir", tmp_path / "run", "--input", text, "--force-retrain-tokenizer")
    assert "is a folder of something else" in run_candlewick(*words, code=3).err
    assert (folder / "notes.md").is_file()


@pytest.mark.parametrize("manifest", ["library", "orchestrator"])
def test_shared_tokenizer_of_transformer_candle_is_copied_into_the_run(orchestrated, text, tmp_path, manifest):
    shared = write_tokenizer(tmp_path / "TOKENIZER" / "e", text.read_text(), manifest)
    assert f"tokenizer  reused, up to date: {shown_path(shared)}" in orchestrated("cloud", "--skip-tokenizer").out
    assert Tokenizer.load(tmp_path / "run" / "tokenizer").sha256 == Tokenizer.load(shared).sha256


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of transformer_candle with the run folder runs/local, and another working directory."""
    write_run(tmp_path / "repo", make_text(3, 3000))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "repo"


FAST = ("--override", "runtime.sample=null", "--override", "runtime.device=cpu")


@pytest.mark.parametrize("kind", ["toml", "yaml"])
def test_training_file_of_its_orchestrator_trains_in_its_run_folder(repository, tmp_path, kind, run_candlewick):
    run = repository / "runs" / "local"
    said = run_candlewick("train", "--config", run / f"training.{kind}", *FAST)
    assert f"its paths start at {repository}, where its orchestrator was called" in said.err
    assert "done: 3 steps" in said.out
    names = {path.name for path in run.iterdir()}
    assert {"checkpoints", "best", "tensorboard", "config.yaml", "metrics.jsonl", "log.txt"} <= names
    assert not any((tmp_path / "elsewhere").iterdir())
    assert list((run / "tensorboard").glob("events*"))


def test_run_of_its_file_lies_in_one_folder(repository, run_candlewick):
    config = write_config(repository / "configs" / "m3.yaml", settings("../runs/local", "../crates/input.txt"))
    shutil.copy(repository / "crates" / "pretraining-data" / "input.txt", repository / "crates" / "input.txt")
    run_candlewick("train", "--config", config, *FAST)
    run = repository / "runs" / "local"
    assert {"checkpoints", "best", "tensorboard", "config.yaml", "metrics.jsonl"} <= {
        p.name for p in run.iterdir()
    }
    # a checkpoint folder of another name says nothing of the run
    kept = ("--override", "runtime.checkpoint.directory=../kept", "--override", "runtime.evaluation.best=null")
    run_candlewick("train", "--config", config, *FAST, *kept)
    assert Path("runs/m3/metrics.jsonl").is_file()


def test_resume_of_its_file_starts_and_goes_on(repository, run_candlewick):
    words = ("train", "--config", repository / "runs" / "local" / "training.toml", *FAST, "--resume")
    assert "done: 3 steps" in run_candlewick(*words).out
    more = ("--override", "scheduler.total_steps=5")
    assert "done: 5 steps" in run_candlewick(*words, *more).out
    assert "done: 5 steps" in run_candlewick(*words, *more).out


def test_resume_of_its_own_checkpoint_names_the_import_command(repository, run_candlewick):
    run = repository / "runs" / "local"
    Candle(320, 32, 2, 64, 2).write(run / "checkpoints")
    words = ("train", "--config", run / "training.toml", *FAST)
    said = run_candlewick(*words, "--resume", code=3).err
    assert f"candlewick import candle {run / 'checkpoints'}" in said
    assert "holds a checkpoint of transformer_candle" in said


def test_orchestrate_resumes_with_more_steps(orchestrated):
    assert "(2 steps" in orchestrated("local", "--resume").out
    assert "(4 steps" in orchestrated("local", "--resume", "--steps", "4").out


def cloud_file(tmp_path, name):
    """Return a file as configs/runpod_1b.yaml, with the folders of cloud mode below `tmp_path`."""
    tree = settings(f"{tmp_path}/RUNS/{name}", f"{tmp_path}/TRAIN/{name}/train_0000.txt")
    places = {kind: f"{tmp_path}/TOKENIZER/{name}/{file}" for kind, file in FILES.items()}
    tree["tokenizer"] |= places
    tree["data"] |= {"validation_shards": [f"{tmp_path}/VAL/{name}/val_0000.txt"], "cache_dir": f"{tmp_path}/own"}
    return write_config(tmp_path / "configs" / f"{name.replace('-', '_')}.yaml", tree)


FILES = {"tokenizer_json": "tokenizer.json", "vocab": "vocab.json", "merges": "merges.txt"}


@pytest.mark.parametrize("experiment", ["runpod-1b", "other"])
def test_its_pod_shards_prepares_and_trains_with_its_own_file(
    orchestrated, text, tmp_path, run_candlewick, experiment
):
    outputs = [word for s in ("train", "val") for word in (f"--{s}-output", tmp_path / s.upper() / experiment)]
    run_candlewick("data", "shard", "--source", text, *outputs, "--mode", "split", "--val-ratio", "0.1")
    config = cloud_file(tmp_path, "runpod-1b")
    cloud = ("--mode", "cloud", "--config", config, "--experiment", experiment, "--reuse-shards")
    vocabulary = ("--vocab-size", "300", "--loader-workers", "1")
    prepared = run_candlewick(*WORDS, *cloud, *vocabulary).out
    run = tmp_path / "RUNS" / experiment
    assert f"next: candlewick train --config {run}/training.yaml" in prepared
    if experiment == "other":
        return
    # the last command of its pod: text, tokenizer and tokens are those that were prepared
    said = run_candlewick("train", "--config", config, *FAST)
    assert "done: 3 steps" in said.out
    assert f"train_0000.txt is not there: {tmp_path}/TRAIN/runpod-1b/train_0000.jsonl is read" in said.err
    assert not (tmp_path / "own").exists()
    assert f"tokens     reused, up to date: {shown_path(run / 'tokens')}" in (run / "log.txt").read_text()
    assert (run / "metrics.jsonl").is_file()


SMALL = """model.hidden_size=32 model.num_layers=1 model.num_attention_heads=2 model.vocab_size=300
data.num_workers=1 tokenizer.vocab_size=300 data.global_batch_size=8 data.sequence_length=32 data.documents=line
scheduler.total_steps=2 scheduler.warmup_steps=1"""


def test_shipped_profile_finds_the_tokens_of_cloud_mode_in_its_run_folder(
    orchestrated, text, tmp_path, run_candlewick
):
    small = [word for key in SMALL.split() for word in ("--override", key)]
    run_candlewick(*WORDS, "--mode", "cloud", "--config", "runpod_1b", "--input", text, *small)
    moved = {  # below /workspace, but for the test
        "data.train_shards": f"[{tmp_path / 'TRAIN' / 'runpod_1b'}]",
        "data.validation_shards": f"[{tmp_path / 'VAL' / 'runpod_1b'}]",
        "tokenizer.tokenizer_json": tmp_path / "TOKENIZER" / "runpod_1b",
        "data.cache_dir": tmp_path / "own",
    }
    run = tmp_path / "RUNS" / "runpod_1b"
    words = ("train", "--config", "runpod_1b", "--run-dir", run, *FAST, *small)
    run_candlewick(*words, *(word for key, path in moved.items() for word in ("--override", f"{key}={path}")))
    assert f"tokens     reused, up to date: {shown_path(run / 'tokens')}" in (run / "log.txt").read_text()
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize("words", [(), ("--max-tokens", "64")])
def test_eval_of_a_fresh_import_reads_the_text_of_its_configuration(repository, tmp_path, run_candlewick, words):
    run = repository / "runs" / "local"
    Candle(320, 32, 2, 64, 2).write(run / "checkpoints")
    run_candlewick("import", "candle", run, "--output", tmp_path / "new")
    figures = json.loads(run_candlewick("eval", tmp_path / "new", "--json", *words).out)
    assert figures["eval/tokens"] == (64 if words else figures["eval/tokens"])
    assert figures["eval/loss"] > 0


def test_download_datasets_flags_fetch_into_its_folders(hub, tmp_path, monkeypatch, run_candlewick):
    monkeypatch.chdir(tmp_path)
    rows = jsonl(f"row {number} of a dataset" for number in range(40))
    for name in ("Skylion007/openwebtext", "emozilla/pg19", "me/own"):
        hub.commit(f"datasets/{name}", {"train.jsonl": rows})
    words = ("--datasets", "openwebtext", "books", "--private-dataset", "me/own", "--hf-token", "hf_x")
    monkeypatch.setenv("HF_TOKEN", "before")
    run_candlewick("data", "fetch", *words, "--max-examples", "30", "--chunk-size", "10")
    fetched = tmp_path / "data" / "raw_hf"
    assert len(list((fetched / "openwebtext").glob("train_*.jsonl"))) == 3
    assert {path.name for path in fetched.iterdir()} == {"openwebtext", "pg19", "own", "download_manifest.json"}
    run_candlewick("data", "fetch", *words, "--output-dir", "other", "--max-examples", "5")
    assert len((tmp_path / "other" / "own" / "train_0000.jsonl").read_text().splitlines()) == 5


def test_preprocess_names_its_corpus_like_a_file_and_mixes_fetched_text(tmp_path, monkeypatch, run_candlewick):
    monkeypatch.chdir(tmp_path)
    for folder in ("raw", "raw_hf/web"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "data" / folder / "a.txt").write_text(f"a line of {folder} that is long enough\n" * 3)
    run_candlewick("data", "preprocess", "hbs_corpus.txt")
    run_candlewick("data", "preprocess", "--mixed")
    sizes = {}
    for name in ("hbs_corpus", "mixed_corpus"):
        folder = tmp_path / "data" / "processed" / name
        sizes[name] = json.loads((folder / "manifest.json").read_bytes())["details"]["total_lines"]
    assert sizes == {"hbs_corpus": 1, "mixed_corpus": 2}
    assert "writes a folder per dataset" in run_candlewick("data", "preprocess", "x.txt", "--hf", code=2).err
    # a configuration that names the file finds the folder
    tree = settings("runs/m3", "data/processed/mixed_corpus.txt")
    config = write_config(tmp_path / "m3.yaml", tree)
    said = run_candlewick("config", "show", "--config", config)
    assert (
        f"{tmp_path}/data/processed/mixed_corpus.txt is not there: {tmp_path}/data/processed/mixed_corpus is read"
        in (said.err)
    )


COMMANDS = """
orchestrate --mode local --input crates/pretraining-data/input.txt --run-dir runs/local-smoke
orchestrate --mode cloud --input /workspace/raw_corpus.txt --experiment runpod-2b --train-shard-lines 250000
orchestrate --mode cloud --experiment runpod-1b --reuse-shards --skip-tokenizer --loader-workers 8
orchestrate --stream --dataset HuggingFaceFW/fineweb --split train --max-samples 1000000 --vocab-size 50000
orchestrate --stream --dataset a/b --split train --stream-batch-size 512 --run-dir r --experiment e
  --vocab-size 32000 --tokenizer-max-lines 600000 --hidden-size 256 --intermediate-size 1024 --layers 16 --heads 8
  --seq-len 1024 --batch-size 8 --grad-accum 4 --steps 12500 --learning-rate 3e-4 --weight-decay 0.05
  --warmup-steps 1000 --schedule cosine-with-warmup --checkpoint-every 500 --max-checkpoints 5
  --evaluate-every 1000 --eval-batches 4 --log-every 10 --shuffle-buffer 8192 --loader-workers 2 --precision fp32
  --seed 42 --tokenizer-seed 42 --max-samples 9
orchestrate --input a --validation b --validation-shard-lines 9 --force-reshard --tokenizer-json t --resume
  --profile local
orchestrate --input a --force-retrain-tokenizer --tensorboard board/deep
train -c runs/local/training.toml --resume --override runtime.log_every_n_steps=5
train --config a.yaml --override data.train_shards[0]=a.txt
data shard --mode smoke --split train --lines-per-shard 50000 --take 100000
data shard --mode split --val-ratio 0.01 --seed 17 --gzip --dataset a/b --workers 2 --train-output t --val-output v
  --hf-token x --cache-root c
data fetch --datasets openwebtext wikipedia books code all --output-dir o --max-examples 9 --chunk-size 9
  --private-dataset a/b --hf-token x
data preprocess
data preprocess --mixed
data preprocess mine.txt --hf
"""
LINES = re.split(r"\n(?=\S)", COMMANDS.strip())


@pytest.mark.parametrize("command", LINES)
def test_command_lines_of_its_guides_and_scripts_are_taken(command):
    words = command.split()
    assert build_parser(words[0]).parse_args(words).run


def test_every_flag_of_its_programs_is_in_a_command_line():
    counts = {"orchestrate": 44, "train": 3, "data shard": 13, "data fetch": 6, "data preprocess": 2}
    for verb, count in counts.items():
        line = " ".join(line for line in LINES if line.startswith(verb))
        assert len(set(re.findall(r"--[a-z-]+", line))) == count, verb


def test_tensorboard_of_its_file_has_the_tags_of_the_table(repository, run_candlewick):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = repository / "runs" / "local"
    run_candlewick("train", "--config", run / "training.toml", *FAST)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    same = {"train/loss", "train/grad_norm", *(f"eval/{n}" for n in ("loss", "perplexity", "accuracy", "tokens"))}
    assert same | {"perf/tokens_per_second", "optim/learning_rate"} <= set(events.Tags()["scalars"])
