"""What a run does at shares of its length: evaluations, samples, and the checkpoint before its decay."""

import json

import pytest
from tests.prepared import plan_run

from candlewick.checkpoint.layout import list_checkpoints
from candlewick.checkpoint.open import Checkpoint
from candlewick.runs.complete import sample_prompts
from candlewick.runs.train import run_training
from candlewick.train.monitor.trackers import read_metrics


def evaluated(run_dir) -> list[int]:
    return [row["step"] for row in read_metrics(run_dir / "metrics.jsonl") if "eval/loss" in row]


def shares(**values) -> dict:
    return {"evaluation": {"every_n_steps": None, "max_tokens": 64, **values}, "sample": {"max_new_tokens": 2}}


def test_run_is_evaluated_at_shares_of_its_updates(tiny, tmp_path):
    config = tiny(scheduler={"total_steps": 10, "warmup_steps": 1}, runtime=shares(at_shares=[0.1, 0.25, 0.8]))
    run_training(config, tmp_path / "run", resume=False)
    assert evaluated(tmp_path / "run") == [1, 3, 8, 10]
    samples = [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "sample/0" in row]
    assert samples == [1, 3, 8, 10]


def test_run_with_a_time_budget_is_evaluated_at_shares_of_its_time(tiny, tmp_path, monkeypatch):
    clock = [0.0]

    def tick() -> float:
        clock[0] += 0.1
        return clock[0]

    monkeypatch.setattr("candlewick.train.trainer.time.monotonic", tick)
    config = tiny(
        scheduler={"total_seconds": 5.0, "total_steps": None}, runtime=shares(at_shares=[0.2, 0.6], at_end=False)
    )
    run_training(config, tmp_path / "run", resume=False)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    seconds = {row["step"]: row["perf/training_seconds"] for row in rows if "perf/training_seconds" in row}
    # a row of figures is written before its update is counted in the time
    assert evaluated(tmp_path / "run") == [max(s for s, t in seconds.items() if t < goal) for goal in (1.0, 3.0)]


@pytest.mark.parametrize("end", [{"total_steps": 20}, {"total_seconds": 2.0, "total_steps": None}])
def test_checkpoint_before_the_decay_is_kept_and_a_longer_run_goes_on_from_it(tiny, tmp_path, end):
    run = tmp_path / "run"
    schedule = {"strategy": "wsd", "decay_fraction": 0.5, "warmup_steps": 1}
    runtime = {"checkpoint": {"before_decay": True, "max_keep": 1, "every_n_steps": 4}}
    runtime |= {"evaluation": {"best": None}, "sample": None}
    config = tiny(scheduler={**schedule, **end}, runtime=runtime)
    result = run_training(config, run, resume=False)
    folders = list_checkpoints(run / "checkpoints")
    before, last = (Checkpoint.open(folder, need={"weights"}).state["counters"] for folder in folders)
    assert before["before_decay"] == last["before_decay"] == before["step"]
    assert last["step"] == result["steps"]
    if end["total_steps"]:
        assert before["step"] == 11  # the first update below the peak is the twelfth
        longer = config.replaced(scheduler={"total_steps": 40})
        run_training(longer, run, resume=folders[0])
        whole = tiny(scheduler={**schedule, "total_steps": 40}, runtime=runtime)
        run_training(whole, tmp_path / "whole", resume=False)
        weights = [
            list_checkpoints(r / "checkpoints")[-1] / "model.safetensors" for r in (run, tmp_path / "whole")
        ]
        assert weights[0].read_bytes() == weights[1].read_bytes()
        steps = [int(folder.name[-9:]) for folder in list_checkpoints(run / "checkpoints")]
        assert steps == [21, 40]


def test_schedule_without_a_plateau_has_no_checkpoint_before_its_decay(tiny, tmp_path):
    runtime = {"checkpoint": {"before_decay": True, "max_keep": 1, "every_n_steps": 4}}
    runtime |= {"evaluation": {"best": None}, "sample": None}
    run_training(
        tiny(scheduler={"total_steps": 8, "strategy": "cosine"}, runtime=runtime), tmp_path / "run", resume=False
    )
    assert len(list_checkpoints(tmp_path / "run" / "checkpoints")) == 1


def test_prompt_of_samples_is_the_beginning_of_a_held_out_document(tiny, tmp_path):
    texts = [f"Document {number} begins with these words and has some more" for number in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = {**tiny().data.model_dump(mode="json"), "train_shards": [str(tmp_path / "a.jsonl")]}
    runtime = {"sample": {"prompts": None, "max_new_tokens": 2}}
    config = tiny(data={**data, "validation_fraction": 0.1, "packing": "chunk"}, runtime=runtime)
    plan = plan_run(config)
    (prompt,) = sample_prompts(config, plan.tokenizer, plan.data.validation)
    words = prompt.split()
    assert words[0] == "Document"
    assert words[2:] == ["begins", "with", "these"]
    held_out = texts[int(words[1])]
    ids = plan.data.validation.read_tokens(0, plan.data.validation.num_tokens)
    assert held_out in plan.tokenizer.decode(ids.tolist())
    assert sample_prompts(tiny(runtime={"sample": None}), plan.tokenizer, plan.data.validation) == ()
