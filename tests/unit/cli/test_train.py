import json
import re
import shlex
from pathlib import Path

import pytest

from candlewick.checkpoint.layout import list_checkpoints
from candlewick.cli.main import main
from candlewick.config.load import load_config
from candlewick.train.monitor.trackers import read_metrics


@pytest.fixture
def short(tiny, config_file):
    """The file of a config with two steps."""
    return config_file(tiny(scheduler={"total_steps": 2, "warmup_steps": 1}), "short.yaml")


def test_train_prints_steps_validation_loss_and_the_next_command(short, tmp_path, capsys):
    run_dir = tmp_path / "run"
    assert main(["train", "--config", short, "--run-dir", str(run_dir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "done: 2 steps, 256 tokens"
    assert lines[1].startswith("validation: loss 5.")
    assert lines[1].endswith(" bits per byte")
    assert re.fullmatch(rf"try: .*candlewick generate {run_dir}", lines[2])


@pytest.mark.parametrize("end", ["total_steps=2", "total_tokens=256", "total_epochs=0.01", "total_seconds=0.2"])
def test_printed_command_trains_the_run_longer(short, tmp_path, capsys, end):
    run_dir, alone = (
        tmp_path / "run",
        ["--override", f"scheduler.{end}", "--override", "scheduler.strategy=constant"],
    )
    assert main(["train", "--config", short, "--run-dir", str(run_dir), *alone]) == 0
    steps = int(list_checkpoints(run_dir / "checkpoints")[-1].name.removeprefix("step_"))
    command = re.sub(r"^train it longer: .*?candlewick ", "", capsys.readouterr().out.splitlines()[-1])
    assert main(shlex.split(command)) == 0
    assert int(list_checkpoints(run_dir / "checkpoints")[-1].name.removeprefix("step_")) > steps


def test_train_json_has_the_result(short, tmp_path, capsys):
    words = ["--override", "scheduler.total_steps=3", "--override", "runtime.logging.enable_stdout=true"]
    assert main(["train", "--config", short, "--run-dir", str(tmp_path / "run"), "--json", *words]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert (result["steps"], result["skipped_steps"]) == (3, 0)
    assert "step 3/3" in captured.err


def test_train_names_the_run_folder_after_the_config(short, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", short]) == 0
    assert len(list_checkpoints(tmp_path / "runs" / "short" / "checkpoints")) == 1


def test_resume_takes_the_config_of_the_run_unless_config_is_given(tiny, trained_copy, config_file, capsys):
    words = ["train", "--resume", "--run-dir", str(trained_copy)]
    assert main([*words, "--override", "scheduler.total_steps=13"]) == 0
    assert load_config(trained_copy / "config.yaml").scheduler.total_steps == 13
    other = config_file(tiny(scheduler={"total_steps": 14, "warmup_steps": 2}))
    assert main([*words, "--config", other]) == 0
    assert "done: 14 steps" in capsys.readouterr().out
    assert list_checkpoints(trained_copy / "checkpoints")[-1].name == "step_000000014"


def test_resume_without_a_run_exits_2_with_the_fix(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--resume"]) == 2
    assert "give it: --resume RUN" in capsys.readouterr().err
    assert main(["train", "--resume", "--run-dir", "run"]) == 2
    assert "run/config.yaml does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--init-from", ""], "runtime.checkpoint.init_from: should be a path, or null"),
        (["--init-from", "no 🕯"], "no 🕯"),
        (["--init-from", "x", "--resume"], "--resume goes on with a run, --init-from starts a new one"),
    ],
)
def test_init_from_an_unusable_checkpoint_writes_no_checkpoint(short, tmp_path, capsys, words, said):
    assert main(["train", "--config", short, "--run-dir", str(tmp_path / "run"), *words]) in (2, 3)
    assert said in capsys.readouterr().err
    assert not list_checkpoints(tmp_path / "run" / "checkpoints")


def test_one_command_starts_a_run_and_goes_on_with_it(tiny, config_file, tmp_path, run_candlewick):
    words = ["train", "--config", config_file(tiny()), "--run-dir", str(tmp_path / "run"), "--resume", "auto"]
    longer = [*words, "--override", "scheduler.total_steps=14"]
    for command, steps in ((words, 12), (words, 12), (longer, 14)):
        assert f"done: {steps} steps" in run_candlewick(*command).out
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, 15))


def test_resume_auto_without_a_run_and_a_configuration_is_refused(tmp_path, run_candlewick):
    err = run_candlewick("train", "--run-dir", str(tmp_path / "run"), "--resume", "auto", code=2).err
    assert "does not exist, so there is nothing to resume" in err
    assert "--config for a run that starts" in err


def test_text_column_and_plain_flags_are_settings_of_the_run(short, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{number},A sentence of row {number} with some words\n" for number in range(300))
    Path("notes.csv").write_text(f"id,body\n{rows}")
    words = ["--text-column", "body", "--steps", "3", "--lr", "0.01", "--context", "16", "--layers", "1"]
    assert main(["train", "notes.csv", "--config", short, "--run-dir", "run", *words]) == 0
    config = load_config(tmp_path / "run" / "config.yaml")
    assert config.data.train_shards == (str(tmp_path / "notes.csv"),)
    assert config.data.text_field == "body"
    assert (config.scheduler.total_steps, config.optimizer.learning_rate) == (3, 0.01)
    assert (config.sequence_length, config.model.num_layers) == (16, 1)


def test_two_ends_of_a_run_are_refused(short, capsys):
    assert main(["train", "--config", short, "--steps", "3", "--seconds", "4"]) == 2
    assert "steps and seconds are 2 ends of a run (fix: give one of them)" in capsys.readouterr().err
