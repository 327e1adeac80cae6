import json
import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from tests.prepared import dataset_folder, open_data
from tests.stories import total_bits

from candlewick.checkpoint.load import load_for_inference
from candlewick.config import DataConfig
from candlewick.data.text.stories.generate import write_story
from candlewick.errors import CheckpointError, DataError
from candlewick.runs.evaluate import evaluate_checkpoint
from candlewick.runs.train import run_training
from candlewick.train.monitor.trackers import read_metrics

CPU = torch.device("cpu")


def evaluate(path, *sources, cache=None, max_tokens=None):
    """What `candlewick eval` calls."""
    data = DataConfig(train_shards=sources, cache_dir=cache, num_workers=1)
    return evaluate_checkpoint(path, data, device="cpu", max_tokens=max_tokens)


def final_metrics(run_dir):
    """The figures of the evaluation at the end of a run, as `evaluate` names them."""
    row = [row for row in read_metrics(run_dir / "metrics.jsonl") if "final/loss" in row][-1]
    return {name.replace("final/", "eval/"): value for name, value in row.items() if name != "step"}


@pytest.mark.parametrize("place", ["", "checkpoints", "checkpoints/step_000000012"])
def test_evaluate_of_a_run_repeats_its_last_evaluation(trained, place):
    assert evaluate(trained / place) == final_metrics(trained)
    assert evaluate(trained / place, max_tokens=128)["eval/tokens"] == 4 * 32


def test_evaluate_of_a_text_agrees_with_plain_bits_per_byte(trained, cache, tmp_path):
    texts = {"a.txt": "The first text, é.\n" * 20, "b.txt": "and 12 other words for it\n" * 30}
    for name, text in texts.items():
        (tmp_path / "text").mkdir(exist_ok=True)
        (tmp_path / "text" / name).write_text(text)
    found = evaluate(trained, str(tmp_path / "text"), cache=cache)

    model, tokenizer = load_for_inference(trained, CPU)
    model.double()
    ids = [i for name in sorted(texts) for i in (0, *tokenizer.encode(texts[name]))]
    nats = 0.0
    for start in range(0, len(ids), 32):
        row = torch.tensor([*ids, ids[0]][start : start + 33])
        nats += F.cross_entropy(model(row[None, :-1])[0, :, :300], row[1:], reduction="sum").item()
    assert found["eval/tokens"] == len(ids)
    assert found["eval/loss"] == pytest.approx(nats / len(ids), rel=1e-6)
    size = sum(len(text.encode()) for text in texts.values())
    assert found["eval/bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-6)


def test_evaluate_of_a_token_dataset_reads_the_validation_split(tiny, trained, tokens):
    found, expected = evaluate(trained, str(tokens)), evaluate(trained)
    assert found["eval/tokens"] == expected["eval/tokens"] == open_data(tiny()).validation.num_tokens
    assert found["eval/loss"] == pytest.approx(expected["eval/loss"], rel=1e-6)


def test_evaluate_covers_all_validation_sets(tiny, text_dir, tmp_path):
    mixture = [{"shards": [str(text_dir / f"0{i}.txt")]} for i in range(2)]
    sets = {"six": [str(text_dir / "06.txt")]}
    sides = {"train_shards": [], "mixture": mixture, "validation_sets": sets}
    data = {**tiny().data.model_dump(mode="json"), **sides, "cache_dir": str(tmp_path / "cache")}
    run_training(tiny(data=data, scheduler={"total_steps": 2}), tmp_path / "run", resume=False)
    last = final_metrics(tmp_path / "run")
    assert evaluate(tmp_path / "run") == pytest.approx(last)
    assert {"eval/loss", "eval/six/loss", "eval/mixture_0/loss", "eval/mixture_1/loss"} <= last.keys()
    kept = set((tmp_path / "cache").iterdir())
    found = evaluate(tmp_path / "run", str(text_dir / "07.txt"), cache=tmp_path / "cache")
    assert all(key.count("/") == 1 for key in found)
    assert kept < set((tmp_path / "cache").iterdir())


def test_evaluate_refuses_tokens_of_another_tokenizer(tiny, trained, tokenizer_folder, cache):
    other = open_data(tiny(tokenizer={"tokenizer_json": str(tokenizer_folder)}))
    folder = dataset_folder(other.train[0])
    with pytest.raises(DataError, match="was prepared with tokenizer"):
        evaluate(trained, str(folder))


def test_evaluate_of_changed_text_uses_the_tokenizer_of_the_model(
    trained, trained_copy, text_dir, tmp_path, cache
):
    text = shutil.copytree(text_dir, tmp_path / "text")
    folder = trained_copy / "checkpoints" / "step_000000012"
    (folder / "manifest.json").unlink()
    state = json.loads((folder / "training/state.json").read_bytes())
    state["config"]["data"] |= {"train_shards": [str(text)], "prepared": {}}
    (folder / "training/state.json").write_text(json.dumps(state))
    before, tokenizers = evaluate(folder), set(cache.glob("tokenizer-*"))
    assert before == evaluate(trained)
    for path in text.iterdir():
        path.write_text(path.read_text().upper())
    assert evaluate(folder)["eval/loss"] > before["eval/loss"]
    assert set(cache.glob("tokenizer-*")) == tokenizers


def test_evaluate_of_a_model_without_training_data_requires_text(trained, tmp_path, cache, text_dir):
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        shutil.copy(trained / "checkpoints" / "step_000000012" / name, tmp_path)
    with pytest.raises(CheckpointError, match="does not say what it was trained on .*name the text"):
        evaluate(tmp_path)
    assert evaluate(tmp_path, str(text_dir / "00.txt"), cache=cache)["eval/loss"] > 0


def test_evaluate_refuses_settings_of_another_version(trained_copy):
    folder = trained_copy / "checkpoints" / "step_000000012"
    (folder / "manifest.json").unlink()
    state = json.loads((folder / "training/state.json").read_bytes())
    state["config"]["model"]["moon"] = 1
    (folder / "training/state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match="holds settings that this version does not read"):
        evaluate(folder)


def test_the_floor_of_stories_stands_beside_bits_per_byte(trained, cache, caplog):
    found = evaluate(trained, "stories://12@3", cache=cache)
    stories = [write_story(3, number) for number in range(12)]
    bits = total_bits(stories)
    assert found["eval/floor"] == pytest.approx(bits / sum(len(story) for story in stories), abs=1e-12)
    assert found["eval/above_floor"] == found["eval/bits_per_byte"] - found["eval/floor"] > 1
    assert "no floor" not in caplog.text


def test_text_that_is_not_all_stories_has_no_floor(trained, cache, tmp_path, monkeypatch, caplog):
    (tmp_path / "a.txt").write_text("one, two, " * 50)
    assert "eval/floor" not in evaluate(trained, "stories://12@3", str(tmp_path / "a.txt"), cache=cache)
    assert "eval/floor" not in evaluate(trained)
    monkeypatch.setattr("candlewick.runs.evaluate.story_bits", lambda text: None if "Once" in text else 200.0)
    assert "eval/floor" not in evaluate(trained, "stories://12@3", cache=cache)
    assert "of 12 documents are no stories of this version: there is no floor" in caplog.text
