import pytest
import torch

from candlewick.config import SampleConfig
from candlewick.errors import ConfigError
from candlewick.generate.batch import Job, generate_texts
from candlewick.generate.engine import Engine, TextGeneration
from candlewick.generate.speculative import SpeculativeEngine

CONFIG = SampleConfig(temperature=1.2, top_k=None, max_new_tokens=12)
JOBS = [Job([0, *ids], seed) for seed, ids in enumerate([[1, 2], [3], [4, 5], [6, 7], [8]])]


def results(engine, letters, jobs=JOBS, config=CONFIG, alternatives=None):
    return dict(generate_texts(engine, letters, jobs, config, alternatives))


@pytest.mark.parametrize("max_rows", [1, 2, 16])
def test_batch_writes_the_text_of_each_job_run_singly(model, letters, max_rows, monkeypatch):
    monkeypatch.setattr(Engine, "max_rows", max_rows)
    engine = Engine(model, 20)
    for index, result in results(engine, letters).items():
        job = JOBS[index]
        assert result["text"] == "".join(TextGeneration(engine, letters, job.ids, CONFIG, seed=job.seed))
        assert result["seed"] == job.seed
        assert result["stop"] == ("length" if len(result["text"]) == 12 else "end")
        assert result["num_tokens"] == len(result["text"]) + (result["stop"] == "end")


def test_jobs_of_one_prompt_length_share_batches_up_to_max_rows(model, letters, monkeypatch):
    sizes = []
    plain = Engine.steps
    monkeypatch.setattr(
        Engine, "steps", lambda self, prompts, *rest: sizes.append(len(prompts)) or plain(self, prompts, *rest)
    )
    monkeypatch.setattr(Engine, "max_rows", 2)
    assert sorted(results(Engine(model, 20), letters)) == [0, 1, 2, 3, 4]
    assert sizes == [2, 2, 1]


def test_batch_ends_when_every_row_has_stopped(model, letters):
    config = CONFIG.replaced(stop=tuple("abcdefghijklmnopqrs"))
    engine = Engine(model, 20)
    assert {r["text"] for r in results(engine, letters, config=config).values()} == {""}
    assert {r["stop"] for r in results(engine, letters, config=config).values()} <= {"text", "end"}


def test_logprobs_are_those_of_the_model_before_temperature(model, letters):
    job = Job([0, 1, 2], 3)
    result = results(Engine(model, 20), letters, [job], alternatives=3)[0]
    ids = [*job.ids, *(token["id"] for token in result["tokens"])]
    assert result["text"] == letters.decode(ids[3:])
    with torch.no_grad():
        scores = model(torch.tensor([ids]))[0, :, :20].log_softmax(dim=-1)
    for place, token in enumerate(result["tokens"], start=2):
        assert token["logprob"] == pytest.approx(scores[place, token["id"]].item(), abs=1e-4)
        best = scores[place].topk(3)
        assert [entry["id"] for entry in token["top"]] == best.indices.tolist()
        assert [entry["logprob"] for entry in token["top"]] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert token["text"] == letters.decode([token["id"]], skip_special=False)


def test_alternatives_are_limited_to_the_vocabulary(model, letters):
    for alternatives, size in ((0, 0), (99, 20)):
        tokens = results(Engine(model, 20), letters, JOBS[:1], alternatives=alternatives)[0]["tokens"]
        assert {len(token["top"]) for token in tokens} == {size}


def test_result_of_a_draft_model_has_an_acceptance_rate(models, letters):
    engine = SpeculativeEngine(models(0), models(1), 20, 4, None)
    told = results(engine, letters)
    assert all(0 <= result["acceptance_rate"] <= 1 for result in told.values())
    assert "acceptance_rate" not in results(Engine(models(0), 20), letters)[0]


def test_prompt_that_is_too_long_is_refused_before_the_first_text(model, letters):
    with pytest.raises(ConfigError, match="the prompt has 30 tokens"):
        next(generate_texts(Engine(model, 20), letters, [*JOBS, Job([1] * 30, 0)], CONFIG, None))
