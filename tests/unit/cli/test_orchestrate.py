"""Every flag of transformer_candle's orchestrator sets its setting or option; two tests start a run."""

import argparse
import json
from types import SimpleNamespace
from typing import get_args

import pytest

from candlewick.cli import orchestrate
from candlewick.cli.main import build_parser, main
from candlewick.config import SchedulerConfig
from candlewick.config.load import load_config
from candlewick.config.tree import differences


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (
            f"--schedule {{{','.join(get_args(SchedulerConfig.model_fields['strategy'].annotation))}}}",
            "scheduler.strategy: Learning-rate schedule.",
        ),
        ("--precision {auto,fp32,bf16,fp16,mixed}", "runtime.precision: Precision of matrix products"),
        ("--learning-rate X", "optimizer.learning_rate: Peak learning rate."),
        ("--warmup-steps N", "scheduler.warmup_steps: Updates of linear warm-up; null: 2 % of the run"),
        ("--input PATH", "data.train_shards: Training text: files, folders,"),
        ("--tokenizer-json PATH", "tokenizer.tokenizer_json: Existing tokenizer: a tokenizer.json"),
        ("--tensorboard [DIR]", "runtime.logging.tensorboard: Write TensorBoard files"),
    ],
)
def test_flag_has_type_choices_and_help_of_its_setting(flag, said, capsys):
    assert main(["orchestrate", "--help"]) == 0
    _, separator, rest = " ".join(capsys.readouterr().out.split("options:")[1].split()).partition(flag)
    assert separator
    assert rest.strip().startswith(said)


@pytest.mark.parametrize("dataset", ["me/text@abc", "hf://datasets/me/text@abc"])
def test_stream_settings_set_dataset_split_and_max_documents(dataset):
    overrides = orchestrate.stream_overrides(dataset, "test", 600_000)
    data = load_config("orchestrate", overrides).data
    assert data.train_shards == ("hf://datasets/me/text@abc",)
    assert (data.hub_split, data.max_documents) == ("test", 600_000)
    assert (
        load_config("orchestrate", orchestrate.stream_overrides(dataset, "test", None)).data.max_documents is None
    )


@pytest.fixture
def given(monkeypatch, tmp_path, run_candlewick):
    """Call `orchestrate` and return what its pipeline would get, and what was told; in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    for name in ("RUNS", "CACHE", "TOKENIZER", "TRAIN", "VAL", "HF_CACHE"):
        monkeypatch.setenv(f"ORCHESTRATE_{name}_ROOT", str(tmp_path / name))
    for name in ("HF_HOME", "HF_HUB_CACHE"):  # set by the command, and taken back after the test
        monkeypatch.setenv(name, "before")
    got = {}

    def run(config, run_dir, say, options):
        got.update(config=config, run_dir=run_dir, options=options)
        return {"command": ["candlewick", "train"]}

    monkeypatch.setattr("candlewick.runs.orchestrate.orchestrate", run)

    def call(*words):
        told = run_candlewick("orchestrate", *words).err
        return SimpleNamespace(**got, told=told)

    return call


def changed(got, base="orchestrate"):
    """The settings that differ from those of a profile, but for the folder of the cache and TensorBoard."""
    found = differences(load_config(base), got.config)
    others = ("data.cache_dir", "runtime.logging.tensorboard")
    return {key: sides["second"] for key, sides in found.items() if key not in others}


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ("--hidden-size 256", {"model.hidden_size": 256, "model.head_dim": 32}),
        ("--intermediate-size 256", {"model.intermediate_size": 256}),
        ("--layers 3", {"model.num_layers": 3}),
        ("--heads 4", {"model.num_attention_heads": 4, "model.num_key_value_heads": 4, "model.head_dim": 128}),
        ("--seq-len 64", {"model.max_position_embeddings": 64}),
        ("--seq-len 64 --override data.sequence_length=32", {"model.max_position_embeddings": 64}),
        ("--batch-size 32", {"data.global_batch_size": 32, "data.micro_batch_size": 32}),
        ("--grad-accum 4", {"data.micro_batch_size": 4}),
        ("--batch-size 32 --grad-accum 4", {"data.global_batch_size": 32, "data.micro_batch_size": 8}),
        ("--steps 7", {"scheduler.total_steps": 7, "scheduler.total_epochs": None}),
        ("--learning-rate 1e-3", {"optimizer.learning_rate": 1e-3}),
        ("--weight-decay 0", {"optimizer.weight_decay": 0.0}),
        ("--warmup-steps 0", {"scheduler.warmup_steps": 0}),
        ("--schedule linear-warmup", {"scheduler.strategy": "linear_warmup"}),
        ("--schedule cosine", {"scheduler.strategy": "cosine"}),
        ("--schedule constant", {"scheduler.strategy": "constant"}),
        ("--schedule polynomial", {"scheduler.strategy": "polynomial"}),
        ("--checkpoint-every 9", {"runtime.checkpoint.every_n_steps": 9}),
        ("--max-checkpoints 1", {"runtime.checkpoint.max_keep": 1}),
        ("--evaluate-every 9", {"runtime.evaluation.every_n_steps": 9}),
        ("--log-every 9", {"runtime.log_every_n_steps": 9}),
        ("--shuffle-buffer 9", {"data.shuffle_buffer_size": 9, "data.order": "window"}),
        (
            "--shuffle-buffer 9 --override data.order=global",
            {"data.shuffle_buffer_size": 9, "data.order": "window"},
        ),
        ("--loader-workers 9", {"data.num_workers": 9}),
        *((f"--precision {p}", {"runtime.precision": p}) for p in ("fp32", "fp16", "bf16", "mixed")),
        ("--seed 0", {"runtime.seed": 0}),
        ("--vocab-size 999", {"tokenizer.vocab_size": 999}),
        ("--layers 3 --override model.num_layers=5", {"model.num_layers": 3}),
    ],
)
def test_flag_sets_its_setting_and_wins_over_overrides(given, words, settings):
    got = given(*words.split())
    assert changed(got) == settings
    assert got.told == ""


@pytest.mark.parametrize(
    ("words", "board"),
    [
        ("", None),  # on if the package is there, as transformer_candle had it
        ("--tensorboard", True),
        ("--tensorboard board", "board"),
        ("--override runtime.logging.tensorboard=false", False),
        ("--config orchestrate --tensorboard", True),
    ],
)
def test_tensorboard_flag_takes_a_folder(given, tmp_path, words, board):
    assert given(*words.split()).config.runtime.logging.tensorboard == (
        tmp_path / board if board == "board" else board
    )


def test_eval_batches_flag_becomes_tokens_of_batches_as_large_as_an_update(given):
    got = given("--eval-batches", "9", "--batch-size", "4")
    assert got.config.runtime.evaluation.max_tokens == 9 * 4 * 1024


def test_paths_of_flags_are_relative_to_the_working_directory(given, tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "c.toml").write_text("[scheduler]\ntotal_steps = 1\n")
    words = "--input a.txt --input hf://datasets/x/y --validation v --tokenizer-json t.json".split()
    got = given("--config", "far/c.toml", *words)
    assert got.config.data.train_shards == (str(tmp_path / "a.txt"), "hf://datasets/x/y")
    assert got.config.data.validation_shards == (str(tmp_path / "v"),)
    assert got.config.tokenizer.tokenizer_json == tmp_path / "t.json"
    assert got.run_dir.parts == ("runs", "c")


def test_profile_orchestrate_has_the_defaults_of_transformer_candle(given):
    config = given().config
    model = config.model
    shape = (model.hidden_size, model.intermediate_size, model.num_layers, model.num_attention_heads)
    assert (*shape, model.max_position_embeddings) == (512, 2048, 8, 8, 1024)
    assert (config.data.global_batch_size, config.optimizer.learning_rate, config.scheduler.total_epochs) == (
        16,
        3e-4,
        1,
    )


@pytest.mark.parametrize(("words", "profile"), [("", "orchestrate"), ("full", "orchestrate"), ("local", "local")])
def test_profile_flag_selects_a_shipped_configuration_and_run_folder(given, words, profile):
    got = given(*(["--profile", words] if words else []))
    assert changed(got, profile) == {}
    assert got.run_dir.name == profile


def test_batch_size_flag_keeps_the_accumulation_of_the_config(given, tmp_path):
    (tmp_path / "c.yaml").write_text(
        "data: {global_batch_tokens: 1024, micro_batch_size: 4, sequence_length: 64}\n"
    )
    data = given("--config", "c.yaml", "--batch-size", "32").config.data
    assert (data.global_batch_size, data.micro_batch_size, data.global_batch_tokens) == (32, 8, None)
    data = given("--config", "c.yaml", "--grad-accum", "2").config.data
    assert (data.global_batch_size, data.micro_batch_size) == (16, 8)


def test_flags_without_a_setting_become_options(given, tmp_path):
    got = given("--skip-tokenizer", "--resume", "--experiment", "e", "--mode", "local")
    assert (got.options.skip_tokenizer, got.options.retrain_tokenizer) == (True, False)
    assert (got.options.prepare_only, got.run_dir.parts) == (False, ("runs", "e"))
    assert given("--force-retrain-tokenizer", "--run-dir", "r").options.retrain_tokenizer
    assert given("--run-dir", "r").run_dir.name == "r"
    assert given().options.sharding is None


def test_resume_flag_requires_a_run_of_a_configuration_of_ours_only(given, tmp_path):
    (tmp_path / "candle.yaml").write_text("data: {batch_size: 2}\n")
    (tmp_path / "ours.yaml").write_text("extends: local\n")
    resumes = {
        (): "if_available",
        ("--profile", "local"): "if_available",
        ("--config", str(tmp_path / "candle.yaml")): "if_available",
        ("--config", str(tmp_path / "ours.yaml")): "required",
        ("--config", "local"): "required",
    }
    assert {words: given(*words, "--resume").options.resume for words in resumes} == resumes
    assert given("--config", "local").options.resume == "if_available"


def test_cloud_mode_uses_the_folders_of_the_environment(given, tmp_path, monkeypatch):
    got = given("--mode", "cloud", "--experiment", "e", "--train-shard-lines", "5", "--reuse-shards")
    sharding = got.options.sharding
    assert (got.options.prepare_only, got.run_dir) == (True, tmp_path / "RUNS" / "e")
    assert sharding.folders == {"train": tmp_path / "TRAIN" / "e", "validation": tmp_path / "VAL" / "e"}
    assert (sharding.documents, sharding.existing) == ({"train": 5, "validation": 5}, "reuse")
    assert got.options.shared_tokenizer == tmp_path / "TOKENIZER" / "e"
    assert got.config.data.cache_dir == tmp_path / "CACHE"
    words = ["--mode", "cloud", "--validation", "v", "--validation-shard-lines", "6"]
    sharding = given(*words, "--force-reshard", "--run-dir", "r").options.sharding
    assert (sharding.documents, sharding.existing) == ({"train": 1_000_000, "validation": 6}, "remake")
    assert given("--mode", "cloud").options.sharding.existing == "refuse"


def parsed(*words: str) -> argparse.Namespace:
    return build_parser("orchestrate").parse_args(["orchestrate", *words])


def test_stream_flag_becomes_the_settings_of_a_hub_dataset():
    assert orchestrate.flag_overrides(parsed("--stream")) == [
        'data.train_shards=["hf://datasets/HuggingFaceFW/fineweb"]',
        'data.hub_split="train"',
        "data.max_documents=null",
    ]
    words = "--stream --dataset me/text@abc/data --split test --max-samples 9".split()
    assert orchestrate.flag_overrides(parsed(*words)) == [
        'data.train_shards=["hf://datasets/me/text@abc/data"]',
        'data.hub_split="test"',
        "data.max_documents=9",
    ]


def test_tokenizer_max_lines_flag_sets_max_train_lines():
    assert orchestrate.flag_overrides(parsed("--tokenizer-max-lines", "9")) == ["tokenizer.max_train_lines=9"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--tokenizer-seed 1", "counts pairs, in any order"),
        ("--train-shard-lines 1", "with --mode cloud"),
        ("--validation-shard-lines 1", "with --mode cloud"),
        ("--reuse-shards", "with --mode cloud"),
        ("--force-reshard", "with --mode cloud"),
        ("--vocab-size 999 --tokenizer-json t", "--tokenizer-json is a finished one"),
        ("--validation-shard-lines 1 --mode cloud", "without --validation"),
    ],
)
def test_flag_without_effect_gives_a_note(given, words, reason):
    got = given(*words.split())
    flag = words.split()[0]
    assert got.told.startswith(f"note: {flag} changes nothing: ")
    assert reason in got.told
    assert got.told.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--config local --profile full", "--config and --profile contradict each other"),
        ("--stream --input a", "--stream and --input contradict"),
        ("--reuse-shards --force-reshard", "--reuse-shards and --force-reshard contradict"),
        (
            "--skip-tokenizer --force-retrain-tokenizer",
            "--skip-tokenizer and --force-retrain-tokenizer contradict",
        ),
        ("--tokenizer-json t --force-retrain-tokenizer", "--tokenizer-json and --force-retrain-tokenizer"),
        *((f"{flag} 1", f"{flag} needs --stream") for flag in ("--dataset", "--split", "--max-samples")),
        ("--stream-batch-size 1", "--stream-batch-size needs --stream"),
        ("--batch-size 3 --grad-accum 2", "3 rows (--batch-size) are not 2 equal passes"),
        ("--learning-rate fast", "invalid float value: 'fast'"),
        ("--learning-rate nan", "optimizer.learning_rate: should be a"),
        ("--layers 0", "'0' is not a whole number from 1 on"),
        ("--schedule steep", "invalid choice: 'steep'"),
        ("--heads 7", "head_dim"),
    ],
)
def test_contradicting_flags_print_one_line_and_exit_2(words, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["orchestrate", *words.split()]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_orchestrate_runs_all_stages_and_then_reuses_them(tiny, config_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = config_file(tiny(scheduler={"total_steps": 2, "warmup_steps": 1}), "small.yaml")
    assert main(["orchestrate", "--config", config]) == 0
    first = capsys.readouterr().out
    assert [line.split()[0] for line in first.splitlines()[:5]] == [
        *("tokenizer", "tokens", "training", "evaluation", "samples")
    ]
    assert "\nthe model writes:\n" in first
    assert (tmp_path / "runs" / "small" / "training.toml").is_file()
    # each of the written configs is one that `train` takes
    for kind in ("yaml", "toml"):
        written = tmp_path / "runs" / "small" / f"training.{kind}"
        assert main(["train", "--config", str(written), "--run-dir", str(tmp_path / kind)]) == 0
    capsys.readouterr()
    assert main(["orchestrate", "--config", config]) == 0
    assert capsys.readouterr().out.count("reused, up to date") == 5


def test_orchestrate_input_replaces_the_text_of_the_config(tiny, config_file, text_dir, tmp_path, capsys):
    config = config_file(tiny(scheduler={"total_steps": 2, "warmup_steps": 1}))
    inputs = ["--input", str(text_dir / "00.txt"), "--input", str(text_dir / "01.txt")]
    words = ["orchestrate", "--config", config, *inputs, "--run-dir", str(tmp_path / "run"), "--json"]
    assert main([*words, "--override", "data.validation_fraction=0.2"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["run_dir"] == str(tmp_path / "run")
    assert result["metrics"]["eval/loss"] > 0
    assert [sample["prompt"] for sample in result["samples"]] == [""]
    assert "tokenizer  made: " in captured.err
    manifest = json.loads((tmp_path / "run" / "tokens" / "manifest.json").read_bytes())
    size = sum(split["text_bytes"] for split in manifest["details"]["splits"].values())
    assert size == sum((text_dir / name).stat().st_size for name in ("00.txt", "01.txt"))


@pytest.mark.parametrize(("flags", "rows"), [([], (2, 1)), (["--batch-size", "6"], (6, 3))])
def test_configuration_of_transformer_candle_is_orchestrated(given, tmp_path, flags, rows):
    (tmp_path / "candle.yaml").write_text("data: {batch_size: 2, gradient_accumulation_steps: 2}\n")
    config = given("--config", str(tmp_path / "candle.yaml"), *flags).config
    assert (config.data.global_batch_size, config.data.micro_batch_size) == rows
