"""A run that was moved or copied goes on where it is, and prepared tokens that are lost are made again."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from candlewick.checkpoint.layout import list_checkpoints
from candlewick.checkpoint.safetensors import read_tensors
from candlewick.cli.main import main
from candlewick.config.load import load_config
from candlewick.errors import ConfigError

MODEL = "{hidden_size: 32, num_layers: 2, num_attention_heads: 2, max_position_embeddings: 32}"
SOURCES = {
    "text": "train_shards: [text]",
    "mixture": "mixture: [{shards: [text/00.txt]}, {shards: [text/01.txt], weight: 2}]",
    "sets": "train_shards: [text/00.txt], validation_shards: [text/01.txt], validation_sets: {x: [text/02.txt]}",
    "chat": "train_shards: [chats.jsonl], format: chat, validation_fraction: 0.3",
}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, text_dir):
    """A folder with text, chats and a config, in which commands run."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(text_dir, "text")
    answers = ("yes", "it is so", "no, never", "perhaps", "of course")
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"question {i}?"},
                {"role": "assistant", "content": answers[i % 5]},
            ]
        }
        for i in range(60)
    ]
    Path("chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_config(sources="text") -> None:
    data = f"{{{SOURCES[sources]}, micro_batch_size: 4, cache_dir: cache}}"
    Path("c.yaml").write_text(
        f"model: {MODEL}\ntokenizer: {{vocab_size: 300}}\ndata: {data}\n"
        "scheduler: {total_steps: 4, warmup_steps: 1, strategy: constant}\n"
        "runtime: {sample: null, checkpoint: {every_n_steps: 2}, evaluation: {every_n_steps: 2}}\n"
    )


def start(run_dir, verb="train", *words) -> None:
    assert main([verb, "--config", "c.yaml", "--run-dir", str(run_dir), *words]) == 0


def resume(run_dir, steps, *words) -> int:
    return main(["train", "--resume", str(run_dir), "--override", f"scheduler.total_steps={steps}", *words])


def weights(run_dir):
    return read_tensors(list_checkpoints(Path(run_dir) / "checkpoints")[-1] / "model.safetensors")


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("verb", ["train", "orchestrate"])
@pytest.mark.parametrize("way", ["moved", "copied"])
def test_run_that_was_moved_or_copied_goes_on_as_the_original_would(verb, way, capsys):
    write_config()
    start("run", verb)
    shutil.copytree("run", "original", symlinks=True)
    if way == "moved":
        Path("far").mkdir()
        Path("run").rename("far/run")
        other = "far/run"
    else:
        shutil.copytree("run", "copy", symlinks=True)
        other = "copy"
    before = contents("original")
    capsys.readouterr()
    assert main(["eval", other, "--json"]) == 0
    assert main(["eval", f"{other}/best", "--json"]) == 0
    assert main(["generate", other]) == 0
    assert resume(other, 8) == 0
    assert "made:" not in capsys.readouterr().err
    assert contents("original") == before
    assert resume("original", 8) == 0
    found, expected = weights(other), weights("original")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert Path(f"{other}/best").resolve().is_relative_to(Path(other).resolve())


def test_run_folder_holds_no_absolute_path_into_itself():
    write_config()
    start("run", "orchestrate")
    inside = str(Path("run").resolve()).encode()
    holding = [name for name, content in contents("run").items() if inside in content and name != "log.txt"]
    # state.json says where the data was; config.yaml, which is read first, where it is
    assert [name for name in holding if not name.endswith("state.json")] == []
    assert load_config("run/config.yaml").data.prepared == {"tokens": Path("run/tokens").resolve()}


def test_prepared_folder_is_trained_where_it_was_moved_to():
    write_config()
    start("run", "orchestrate")
    shutil.rmtree("run/checkpoints")
    Path("run").rename("other")
    shutil.rmtree("text")
    for name in ("config.yaml", "best"):
        Path("other", name).unlink()
    assert main(["train", "--config", "other/training.yaml"]) == 0
    assert list_checkpoints(Path("other/checkpoints"))[-1].name == "step_000000004"


@pytest.mark.parametrize("sources", SOURCES)
def test_tokens_that_are_lost_are_made_again_and_the_run_goes_on(sources, capsys):
    write_config(sources)
    start("run")
    shutil.copytree("run", "whole", symlinks=True)
    assert resume("whole", 8) == 0
    shutil.rmtree("cache")
    assert resume("run", 8) == 0
    assert "are gone: they are made again from" in capsys.readouterr().err
    found, expected = weights("run"), weights("whole")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    shutil.rmtree("cache")
    assert main(["eval", "run"]) == 0


def test_lost_tokens_of_text_that_is_gone_or_another_name_what_is_missing(capsys):
    write_config()
    start("run")
    shutil.rmtree("cache")
    Path("text").rename("elsewhere")
    assert resume("run", 8) == 3
    assert "/text does not exist" in capsys.readouterr().err
    named = json.dumps([str(Path("elsewhere").resolve())])
    assert resume("run", 8, "--override", f"data.train_shards={named}") == 0
    shutil.rmtree("cache")
    Path("elsewhere/00.txt").write_text("another text " * 500)
    assert resume("run", 10) == 3
    assert "dataset_id" in capsys.readouterr().err


def test_tokenizer_that_is_gone_is_taken_from_the_run(capsys):
    write_config()
    start("first")
    shutil.copytree(list_checkpoints(Path("first/checkpoints"))[-1], "mine")
    start("run", "train", "--override", "tokenizer.tokenizer_json=mine")
    shutil.rmtree("mine")
    shutil.rmtree("cache")
    assert resume("run", 8) == 0
    assert "is gone: the run's own is taken" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        "tokenizer.vocab_size=310",
        "data.documents=line",
        "data.validation_fraction=0.2",
        "data.train_shards=[../text/03.txt]",
    ],
)
def test_config_of_a_run_with_another_text_or_tokenizer_prepares_its_own(change):
    write_config()
    start("run")
    assert main(["train", "--config", "run/config.yaml", "--run-dir", "new", "--override", change]) == 0
    before, after = (load_config(f"{name}/config.yaml").data.prepared for name in ("run", "new"))
    assert before["tokens"] != after["tokens"]


def test_config_of_a_run_with_the_same_text_reads_its_tokens():
    write_config()
    start("run")
    shutil.rmtree("text")
    words = ["--override", "optimizer.learning_rate=0.01"]
    assert main(["train", "--config", "run/config.yaml", "--run-dir", "new", *words]) == 0


def test_prepared_tokens_of_an_override_are_a_path_of_its_folder():
    write_config()
    config = load_config("c.yaml", ["data.prepared={tokens: here}"])
    assert config.data.prepared == {"tokens": Path("here").resolve()}
    with pytest.raises(ConfigError, match="should be a path"):
        load_config("c.yaml", ["data.prepared={tokens: ''}"])


def test_edited_sources_of_a_run_configuration_are_read_and_not_its_prepared_tokens(capsys):
    write_config()
    start("run", "orchestrate")
    shutil.copytree("text", "other")
    Path("other/00.txt").write_text("quite another text " * 300)
    text = Path("run/training.yaml").read_text()
    edited = text.replace(
        f"train_shards:\n  - {Path('text').resolve()}", f"train_shards:\n  - {Path('other').resolve()}"
    )
    assert edited != text
    Path("run/edited.yaml").write_text(edited)
    assert main(["train", "--config", "run/edited.yaml", "--run-dir", "new"]) == 0
    assert "were made of other sources: they are not read" in capsys.readouterr().err
    before, after = (load_config(f"{name}/config.yaml").data.prepared["tokens"] for name in ("run", "new"))
    assert before != after


def test_checkpoint_that_is_copied_out_of_its_run_still_knows_its_data():
    write_config()
    start("run", "orchestrate")
    shutil.copytree("run/best", "exported")
    shutil.rmtree("text")
    assert main(["eval", "exported"]) == 0


def test_run_whose_checkpoints_are_a_link_to_another_disk_finds_its_tokens():
    write_config()
    Path("disk").mkdir()
    Path("run").mkdir()
    Path("run/checkpoints").symlink_to("../disk")
    start("run", "orchestrate")
    shutil.rmtree("text")
    assert main(["eval", "run"]) == 0
    assert resume("run", 8) == 0


def test_run_that_started_from_a_model_inside_its_folder_goes_on_after_a_move():
    write_config()
    start("first")
    Path("run").mkdir()
    shutil.copytree(list_checkpoints(Path("first/checkpoints"))[-1], "run/base")
    start("run", "train", "--init-from", "run/base")
    assert resume("run", 6) == 0
    Path("run").rename("moved")
    assert resume("moved", 8) == 0


def test_weight_of_a_source_is_compared_without_its_text(capsys):
    write_config("mixture")
    start("run")
    shutil.rmtree("text")
    resume("run", 6, "--override", "data.mixture[1].weight=3")
    assert "does not exist" not in capsys.readouterr().err
