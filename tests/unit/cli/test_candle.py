"""Configurations, tokenizers and checkpoints of transformer_candle at the command line."""

import json

import pytest
from tests.candle import Candle

from candlewick.cli.candle import streaming_overrides
from candlewick.cli.main import main
from candlewick.config.tree import dump


@pytest.fixture
def fails(run_candlewick):
    """Run a command that must fail; return the line that says why."""

    def run(code: int, *words: object) -> str:
        err = run_candlewick(*words, code=code).err
        assert err.count("\n") == 1
        return err

    return run


def test_config_show_translates_candle_keys_and_prints_notes(tmp_path, capsys):
    (tmp_path / "old.yaml").write_text("data: {batch_size: 64, gradient_accumulation_steps: 16}\n")
    words = ["--config", str(tmp_path / "old.yaml"), "--override", "scheduler.max_lr=0.5", "--json"]
    assert main(["config", "show", *words]) == 0
    shown = capsys.readouterr()
    data = json.loads(shown.out)["data"]
    assert (data["global_batch_size"], data["micro_batch_size"]) == (64, 4)
    assert json.loads(shown.out)["optimizer"]["learning_rate"] == 0.5
    assert "note: data.batch_size=64 with gradient_accumulation_steps=16 is read as rows per update" in shown.err


def test_streaming_config_becomes_overrides_and_a_note(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("{}\n")
    content = {"dataset": "me/text", "split": "train", "max_samples": 600_000, "stream_batch_size": 512}
    (tmp_path / "streaming_config.json").write_text(json.dumps(content))
    assert streaming_overrides(str(tmp_path / "run.yaml")) == [
        'data.train_shards=["hf://datasets/me/text"]',
        'data.hub_split="train"',
        "data.max_documents=600000",
        "data.validation_shards=[]",
    ]
    told = capsys.readouterr().err
    assert "streaming_config.json is read: data.train_shards=" in told
    assert "a part of that text is held out for validation; stream_batch_size changes nothing: " in told
    (tmp_path / "streaming_config.json").write_text('{"dataset": "me/text"}')
    assert streaming_overrides(str(tmp_path / "run.yaml"))[2] == "data.max_documents=null"
    assert capsys.readouterr().err.endswith("for validation\n")
    assert streaming_overrides("demo") == streaming_overrides("") == []


@pytest.mark.parametrize(
    "place", ["old", "old/checkpoints", "old/checkpoints/step_000000000007_global_000000000007"]
)
@pytest.mark.parametrize("verb", ["generate", "eval"])
def test_generate_and_eval_of_a_candle_checkpoint_name_the_import_command(tmp_path, fails, verb, place):
    Candle(320, 32, 1, 64, 2).write(tmp_path / "old" / "checkpoints")
    said = fails(3, verb, tmp_path / place)
    assert f"{tmp_path / place} holds a checkpoint of transformer_candle, not one of candlewick" in said
    assert f"(fix: candlewick import candle {tmp_path / place} --config training.yaml --output RUN makes" in said


def test_train_from_a_candle_checkpoint_names_the_import_command(tmp_path, fails, config_file, tiny):
    folder = Candle(320, 32, 1, 64, 2).write(tmp_path / "old" / "checkpoints")
    config = config_file(tiny())
    said = fails(3, "train", "--config", config, "--run-dir", tmp_path / "new", "--init-from", folder)
    assert f"{folder} holds a checkpoint of transformer_candle" in said
    said = fails(3, "train", "--config", config, "--run-dir", tmp_path / "old", "--resume")
    assert f"candlewick import candle {folder.parent} --config" in said


def test_folder_without_any_checkpoint_keeps_the_general_message(tmp_path, fails):
    assert "holds no finished checkpoint (fix: give a checkpoint" in fails(3, "generate", tmp_path)


@pytest.fixture
def tokenizer_config(tmp_path, text_dir):
    """A tokenizer configuration of transformer_candle."""
    path = tmp_path / "tok.toml"
    path.write_text(
        '[model]\nvocab_size = 300\nspecial_tokens = ["<pad>", "<bos>", "<eos>"]\n[postprocessor]\n'
        f'[training]\ninputs = ["{text_dir}/00.txt"]\n[artifacts]\ndir = "own"\n'
    )
    return path


def test_tokenizer_config_of_candle_is_trained_and_inspected(run_candlewick, tokenizer_config, tmp_path):
    train = ("tokenizer", "train", "--config", tokenizer_config)
    assert run_candlewick(*train).out.startswith(f"wrote: {tmp_path / 'own'}\nvocabulary 300 of 300")
    assert run_candlewick(*train).out.startswith("up to date: ")
    shown = json.loads(run_candlewick("tokenizer", "inspect", "--config", tokenizer_config, "--json").out)
    assert (shown["delimiter_id"], shown["end_id"], shown["stop_ids"], shown["padding_id"]) == (1, 2, [2, 1], 0)
    assert shown["special_tokens"] == {"<pad>": 0, "<bos>": 1, "<eos>": 2}
    assert (shown["template"], shown["document"]) == ("<bos> $A <eos>", "<bos> TEXT <eos>")
    assert (shown["missing_bytes"], shown["pattern"]) == (0, "gpt2")
    assert shown["changes"] == ["a space comes before text that begins without one"]
    other = tmp_path / "other"
    shown = json.loads(run_candlewick(*train, "--output", other, "--json").out)
    assert shown["output"] == str(other)
    assert (other / "vocab.json").exists()


def test_tokenizer_config_of_candle_refuses_sources_and_overrides(fails, tokenizer_config):
    assert "change training.inputs in it" in fails(2, "tokenizer", "train", "a.txt", "--config", tokenizer_config)
    words = ("tokenizer", "train", "--config", tokenizer_config, "--override", "a=1")
    assert "change training.inputs in it" in fails(2, *words)


@pytest.fixture
def run(tmp_path, tiny, tokenizer_folder):
    """A run of transformer_candle: RUN/training.yaml, RUN/tokenizer, RUN/checkpoints/step_*."""
    folder = tmp_path / "old"
    Candle(320, 32, 1, 64, 2).write(folder / "checkpoints")
    config = tiny(optimizer={"algorithm": "adam_w", "learning_rate": 1e-3})
    shape = {"hidden_size": 32, "num_layers": 1, "intermediate_size": 64}
    config = config.model_copy(update={"model": config.model.model_copy(update=shape)})
    (folder / "training.yaml").write_text(dump(config, "yaml"))
    (folder / "tokenizer").symlink_to(tokenizer_folder)
    return folder


def test_import_candle_reads_config_and_tokenizer_of_the_run_folder(run, tmp_path, capsys):
    words = ["import", "candle", str(run), "--output", str(tmp_path / "out")]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert "1 layers of 32, 2 heads, 320 tokens" in output
    assert f"step 7; go on: candlewick train --run-dir {tmp_path / 'out'} --resume" in output


def test_import_candle_json_has_the_result(run, tmp_path, capsys):
    assert main(["import", "candle", str(run), "--output", str(tmp_path / "out"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["step"], result["vocab_size"], result["model"]["mlp"]) == (7, 320, "silu")


def test_import_candle_without_config_or_tokenizer_names_the_option(run, tmp_path, capsys):
    (run / "training.yaml").unlink()
    words = ["import", "candle", str(run), "--output", str(tmp_path / "out")]
    assert main(words) == 2
    assert "contains no training configuration (fix: give --config" in capsys.readouterr().err
    (run / "tokenizer").unlink()
    assert main([*words, "--weights-only", "--heads", "2"]) == 2
    assert "no tokenizer is named, and none lies in" in capsys.readouterr().err


def test_import_candle_takes_the_tokenizer_of_the_configuration(run, tmp_path, tokenizer_folder, capsys):
    (run / "tokenizer").unlink()
    words = ["import", "candle", str(run), "--output", str(tmp_path / "out")]
    assert main([*words, "--override", f"tokenizer.tokenizer_json={tokenizer_folder}"]) == 0
    assert main([*words[:-1], str(tmp_path / "other"), "--tokenizer", str(tokenizer_folder)]) == 0
