"""A chat model trained from a text model: ids equal Hugging Face's, and the run resumes without its parent."""

import json
import shutil

import pytest
from tests.corpora import exchange, jsonl
from tests.prepared import newest_checkpoint
from transformers import AutoTokenizer

from candlewick.artifacts.manifest import read_manifest
from candlewick.checkpoint.load import load_for_inference
from candlewick.checkpoint.safetensors import read_tensors
from candlewick.cli.main import main
from candlewick.config.load import load_config
from candlewick.parallel.device import find_device
from candlewick.runs.train import run_training
from candlewick.tokenizer.chat import encode_chat

CHAT = [
    {"role": "system", "content": "Be brief.\n"},
    {"role": "user", "content": "  What is 2 + 2?\n\nAnd 3 + 3? "},
    {"role": "assistant", "content": "It's 4,\r\nand 6. 日本語 naïve"},
    {"role": "user", "content": "\n"},
    {"role": "assistant", "content": " yes"},
]
CHATS = [CHAT, CHAT[1:], CHAT[1:3], CHAT[2:]]


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    path = tmp_path_factory.mktemp("chats") / "a.jsonl"
    words = ("is", "two", "who", "new", "time")
    rows = [exchange(f"the {words[i % 5]}?", f"The {words[i % 5]} is {words[i % 3]}.") for i in range(60)]
    path.write_bytes(jsonl(rows, "messages"))
    return path


@pytest.mark.parametrize("prompt", [False, True])
def test_hugging_face_readers_encode_chats_to_the_same_ids(tokenizer, tmp_path, core_row, prompt):
    own = tokenizer.with_chat_tokens()
    own.write(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    wrong = 0
    for chat in CHATS:
        expected = theirs.apply_chat_template(chat, tokenize=True, add_generation_prompt=prompt, return_dict=False)
        wrong += encode_chat(own, chat, prompt)[0] != expected
    core_row("data.format=chat", "transformers apply_chat_template, conversations that differ", wrong, 0)
    texts = [message["content"] for message in CHAT]
    differ = sum(theirs.encode(text, add_special_tokens=False) != own.encode(text) for text in texts)
    core_row("data.format=text", "transformers AutoTokenizer, texts that differ", differ, 0)


@pytest.fixture
def child(tiny, trained_copy, chats, cache, tmp_path, config_file):
    """A chat run that starts from `trained_copy`: its config file, its folder."""
    file = tmp_path / "chat.json"
    kept = {name: tiny().model_dump(mode="json")[name] for name in ("scheduler", "runtime")}
    data = {"train_shards": [str(chats)], "format": "chat", "validation_fraction": 0.1, "num_workers": 1}
    file.write_text(json.dumps({**kept, "data": {**data, "cache_dir": str(cache), "micro_batch_size": 4}}))
    return file, tmp_path / "child"


def test_chat_model_is_trained_from_a_text_model_and_resumes_without_it(
    child, trained_copy, chats, tmp_path, capsys
):
    file, folder = child
    parent_id = read_manifest(newest_checkpoint(trained_copy / "checkpoints")).id
    words = ["train", "--config", str(file), "--run-dir", str(folder)]
    assert main([*words, "--init-from", str(trained_copy), "--override", "scheduler.total_steps=6"]) == 0
    config = load_config(folder / "config.yaml")
    assert config.runtime.checkpoint.init_from == str(trained_copy)
    assert (config.model.hidden_size, config.model.vocab_size) == (32, 320)
    checkpoint = newest_checkpoint(folder / "checkpoints")
    assert "chat_template" in json.loads((checkpoint / "tokenizer_config.json").read_bytes())
    before = read_tensors(newest_checkpoint(trained_copy / "checkpoints") / "model.safetensors")
    after = read_tensors(checkpoint / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    assert 0 < (after[name] - before[name]).abs().max() < 0.2  # started there, and went on
    _, tokenizer = load_for_inference(folder, find_device("cpu"))
    assert tokenizer.chat_ids == (300, 301)
    shutil.rmtree(trained_copy)
    capsys.readouterr()
    assert main(["train", "--resume", "--run-dir", str(folder), "--override", "scheduler.total_steps=8"]) == 0
    assert "done: 8 steps" in capsys.readouterr().out
    original = [
        *words,
        "--resume",
        "--override",
        "scheduler.total_steps=9",
    ]  # the settings that it began with, too
    for parent, code, said in (("nowhere", 2, "init_from="), (trained_copy, 0, "done: 9 steps")):
        assert main([*original, "--override", f"runtime.checkpoint.init_from={parent}"]) == code
        assert said in "".join(capsys.readouterr())
    assert read_manifest(newest_checkpoint(folder / "checkpoints")).inputs["parent"] == parent_id
    (tmp_path / "chats").mkdir()
    shutil.copy(chats, tmp_path / "chats")
    assert main(["eval", str(folder), str(tmp_path / "chats")]) == 0
    assert "bits_per_byte" in capsys.readouterr().out


def test_chat_training_counts_answer_tokens_only(child, trained_copy):
    file, folder = child
    config = load_config(file, [f"runtime.checkpoint.init_from={json.dumps(str(trained_copy))}"])
    result = run_training(config, folder, resume=False)
    tokens = read_manifest(newest_checkpoint(folder / "checkpoints")).inputs["tokens"]
    data = load_config(folder / "config.yaml").data
    manifest = read_manifest(data.prepared["tokens"])
    assert manifest.id == tokens
    held = [shard for shard in manifest.details["shards"] if shard["split"] == "validation"]
    assert result["metrics"]["final/tokens"] == sum(shard["targets"] for shard in held)
    assert 0 < result["metrics"]["final/bits_per_byte"] < 20


def test_chat_training_stretches_the_context(child, trained_copy, capsys):
    file, folder = child
    words = ["train", "--config", str(file), "--run-dir", str(folder), "--init-from", str(trained_copy)]
    yarn = "model.rope_scaling={rope_type: yarn, factor: 2, original_max_position_embeddings: 32}"
    longer = ["--override", "model.max_position_embeddings=64", "--override", yarn]
    assert main([*words, *longer, "--override", "scheduler.total_steps=3"]) == 0
    assert "done: 3 steps" in capsys.readouterr().out
    assert load_for_inference(folder, find_device("cpu"))[0].config.max_position_embeddings == 64


def test_rows_beyond_the_context_of_the_parent_are_refused_in_one_line(child, trained_copy, capsys):
    file, folder = child
    words = ["train", "--config", str(file), "--run-dir", str(folder), "--init-from", str(trained_copy)]
    assert main([*words, "--override", "data.sequence_length=64"]) == 2
    assert "data.sequence_length=64 exceeds the context of" in capsys.readouterr().err


def test_settings_that_contradict_the_parent_are_refused_in_one_line(child, trained_copy, capsys):
    file, folder = child
    words = ["train", "--config", str(file), "--run-dir", str(folder), "--init-from", str(trained_copy)]
    assert main([*words, "--override", "model.num_layers=3"]) == 2
    assert "model.num_layers=3 (the checkpoint has 2)" in capsys.readouterr().err
