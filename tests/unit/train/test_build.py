import json
import logging
import shutil
from dataclasses import replace

import pytest
import torch
from tests.prepared import newest_checkpoint, open_data, plan_run, prepare

from candlewick.checkpoint.layout import list_checkpoints
from candlewick.checkpoint.safetensors import read_tensors
from candlewick.errors import CheckpointError, ConfigError, MachineError
from candlewick.parallel import precision
from candlewick.parallel.device import Distributed
from candlewick.runs.train import run_training
from candlewick.train import build as build_module
from candlewick.train.build import build
from candlewick.train.evaluate import evaluate
from candlewick.train.monitor.trackers import read_metrics
from candlewick.train.step import train_step


@pytest.fixture
def built(tmp_path):
    """Build trainers on the CPU and close what they opened."""
    trainers = []

    def make(config, *, run_dir=tmp_path / "run", resume=False, sampler=None, **changes):
        plan = replace(plan_run(config, run_dir, resume=resume), **changes)
        trainers.append(build(plan, sampler))
        return trainers[-1]

    yield make
    for trainer in trainers:
        trainer.loader.close()
        with trainer.reporter.running(trainer.state):
            pass


def test_new_run_starts_at_step_zero_with_weights_of_the_random_seed(tiny, built, tmp_path):
    first, second = (built(tiny(), run_dir=tmp_path / name) for name in "ab")
    other = built(tiny(runtime={"seed": 7}), run_dir=tmp_path / "c")
    assert first.state.step == first.loader.rows_read == 0
    assert first.state.total_steps == 12
    weights = [dict(trainer.objective.named_parameters()) for trainer in (first, second, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(*(w["model.model.embed_tokens.weight"] for w in weights[1:]))
    assert first.sampler is None
    assert not list((tmp_path / "a").glob("checkpoints/*"))


def test_snapshot_holds_the_state_of_the_components(tiny, built):
    trainer = built(tiny())
    snapshot = trainer.snapshot()
    assert snapshot.step == 0
    assert snapshot.vocab_size == 320
    assert snapshot.state["config"] == prepare(tiny()).config.model_dump(mode="json")
    assert snapshot.state["loader"]["samples"] == 0
    assert snapshot.state["threads"] == torch.get_num_threads()
    json.dumps(snapshot.state, allow_nan=False)


def test_resume_restores_step_tokens_and_rows_read(tiny, built, trained_copy):
    trainer = built(tiny(), run_dir=trained_copy, resume=True)
    assert (trainer.state.step, trainer.state.tokens, trainer.state.total_steps) == (12, 12 * 4 * 32, 12)
    assert trainer.loader.rows_read == 12 * 4
    assert trainer.saver.saved_step == 12
    assert trainer.state.best_loss is not None


def test_resume_takes_the_end_of_the_run_from_the_config(tiny, built, trained_copy):
    def end(**totals):
        config = tiny(scheduler={"total_steps": None, "warmup_steps": 2, **totals})
        return built(config, run_dir=trained_copy, resume=True).state.total_steps

    assert end(total_steps=20) == 20
    assert end(total_tokens=2048) == 16
    assert end(total_seconds=60.0) is None


def test_resume_with_larger_batches_ends_at_the_same_tokens(tiny, built, trained_copy):
    data = tiny().data.model_dump(mode="json") | {"global_batch_size": 8}
    config = tiny(data=data, scheduler={"total_steps": None, "warmup_steps": 2, "total_tokens": 64 * 32})
    trainer = built(config, run_dir=trained_copy, resume=True)
    # 12 updates of 4 rows are behind it, 2 of 8 make 64
    assert (trainer.state.step, trainer.loader.rows_read, trainer.state.total_steps) == (12, 48, 14)


def test_model_larger_than_memory_is_refused(tiny, built):
    model = tiny().model.model_dump(mode="json") | {"num_layers": 10**15}
    with pytest.raises(MachineError, match=r"not enough memory: .*verflow.*smaller model"):
        built(tiny(model=model))


def test_resume_keeps_the_steps_of_an_unchanged_time_budget(tiny, built, tmp_path):
    def config(seconds):
        scheduler = {"total_steps": None, "total_seconds": seconds, "warmup_steps": 2}
        return tiny(scheduler=scheduler, runtime={**tiny().runtime.model_dump(mode="json"), "sample": None})

    outcome = run_training(config(0.02), tmp_path / "run", resume=False)
    assert built(config(0.02), resume=True).state.total_steps == outcome["steps"]
    assert built(config(3600.0), resume=True).state.total_steps is None


def test_resume_with_another_number_of_threads_warns(tiny, built, trained_copy, caplog):
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with caplog.at_level(logging.WARNING):
            built(tiny(), run_dir=trained_copy, resume=True)
    finally:
        torch.set_num_threads(threads)
    assert f"the run had threads={threads}, now it is {threads + 1}: results may differ" in caplog.text
    assert caplog.text.count("the run had") == 1


def test_resume_with_settings_that_must_match_is_refused(tiny, built, trained_copy):
    with pytest.raises(ConfigError, match=r"model\.num_layers \(was 2, is 3\).*put them back"):
        built(
            tiny(model={"hidden_size": 32, "num_layers": 3, "num_attention_heads": 2}),
            run_dir=trained_copy,
            resume=True,
        )


def test_resume_that_ends_before_its_step_is_refused(tiny, built, trained_copy):
    with pytest.raises(ConfigError, match="has made 12 updates, its settings end it after 5 .*raise scheduler"):
        built(tiny(scheduler={"total_steps": 5}), run_dir=trained_copy, resume=True)


def test_longer_run_tells_the_jump_of_its_learning_rate(tiny, built, trained_copy, caplog):
    built(tiny(scheduler={"total_steps": 40, "warmup_steps": 2}), run_dir=trained_copy, resume=True)
    assert "the learning rate after step 12 is 0.02; as the run was before it was 0" in caplog.text


def test_another_amount_of_validation_text_restarts_the_best_loss(tiny, built, trained_copy, text_dir, caplog):
    runtime = {**tiny().runtime.model_dump(mode="json"), "evaluation": {"every_n_steps": 4, "max_tokens": 128}}
    data = tiny().data.model_dump(mode="json")
    mask, half = ({"data": {**data, **change}} for change in ({"document_mask": True}, {"micro_batch_size": 2}))
    for sections, is_other in (({"runtime": runtime}, True), (mask, True), (half, False)):
        caplog.clear()
        best = built(tiny(**sections), run_dir=trained_copy, resume=True).state.best_loss
        assert (best is None) == is_other == ("the lowest loss is looked for anew" in caplog.text)


def test_another_validation_set_beside_the_main_one_keeps_the_best_loss(tiny, built, trained_copy, text_dir):
    text = shutil.copy(text_dir / "03.txt", trained_copy / "other.txt")
    sets = {**tiny().data.model_dump(mode="json"), "validation_sets": {"other": [str(text)]}}
    for sections in ({}, {"data": sets}):
        assert built(tiny(**sections), run_dir=trained_copy, resume=True).state.best_loss is not None


def test_resume_without_a_checkpoint_is_refused(tiny, built, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint in .*without --resume"):
        built(tiny(), resume=True)


def test_checkpoint_directories_of_the_config_are_used(tiny, tmp_path):
    runtime = {
        **tiny().runtime.model_dump(mode="json"),
        "checkpoint": {"directory": str(tmp_path / "elsewhere"), "every_n_steps": 5, "max_keep": 2},
        "evaluation": {"every_n_steps": 4, "max_tokens": 256, "best": {"directory": str(tmp_path / "good")}},
    }
    run_training(tiny(runtime=runtime), tmp_path / "run", resume=False)
    # the best is that of step 12: it is not counted towards the two
    assert [folder.name for folder in list_checkpoints(tmp_path / "elsewhere")] == [
        f"step_{step:09}" for step in (8, 10, 12)
    ]
    (best,) = list_checkpoints(tmp_path / "good")
    assert best.resolve() == (tmp_path / "good" / "best").resolve() == tmp_path / "elsewhere" / "step_000000012"
    assert not [path.name for path in (tmp_path / "run").iterdir() if path.name in ("checkpoints", "best")]
    assert run_training(tiny(runtime=runtime), tmp_path / "run", resume=True)["steps"] == 12


def by_hand(trainer, updates: int) -> list[float]:
    """Make some updates without the loop around them; return their losses."""
    parts, losses = trainer, []
    for _ in range(updates):
        result = train_step(parts.objective, parts.optimizer, parts.loader.next(), 1.0, parts.loss_scale)
        losses.append(result.loss.item())
    return losses


def test_components_train_without_the_trainer_and_save_nothing(tiny, built, tmp_path):
    losses = by_hand(built(tiny()), 3)
    assert losses[2] < losses[0]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]


def test_label_smoothing_is_trained_with_and_not_evaluated_with(tiny, built, tmp_path):
    shares = (0.0, 0.3)
    trainers = [built(tiny(objective={"label_smoothing": s}), run_dir=tmp_path / str(s)) for s in shares]
    plain, smoothed = (trainer.evaluate(None) for trainer in trainers)
    assert plain == smoothed
    losses = [by_hand(trainer, 2) for trainer in trainers]
    assert losses[0][0] == pytest.approx(losses[1][0], abs=0.5)  # both guess, which costs ln V however smoothed
    assert losses[0] != losses[1]
    weights = [dict(trainer.objective.named_parameters()) for trainer in trainers]
    assert not torch.equal(*(w["model.model.embed_tokens.weight"] for w in weights))


def test_init_from_starts_with_other_weights_and_resumes_without_the_parent(
    tiny, built, trained_copy, tmp_path, core_row
):
    runtime = tiny().runtime.model_dump(mode="json")
    runtime["checkpoint"] |= {"init_from": str(trained_copy)}
    config = tiny(
        model=tiny().model.model_dump(mode="json") | {"vocab_size": 320},
        runtime=runtime,
        scheduler={"total_steps": 2, "warmup_steps": 1},
        optimizer={"ema_decay": 0.5},
    )
    expected = read_tensors(newest_checkpoint(trained_copy / "checkpoints") / "model.safetensors")
    trainer = built(config)
    assert (trainer.state.step, trainer.loader.rows_read) == (0, 0)
    for found in (
        dict(trainer.objective.model.named_parameters()),
        trainer.optimizer.average.averages,
    ):
        error = max((found[name] - tensor).abs().max().item() for name, tensor in expected.items())
        core_row("runtime.checkpoint.init_from", "the checkpoint's own weights: to the bit", error, 0.0)
    run_training(config, tmp_path / "new", resume=False)
    shutil.rmtree(trained_copy)
    assert built(config, run_dir=tmp_path / "new", resume=True).state.step == 2


def test_batch_ramp_reads_the_same_rows_in_the_same_order(tiny, built, tmp_path, core_row):
    data = tiny().data.model_dump(mode="json") | {"micro_batch_size": 2, "global_batch_size": 8}
    ramp = [{"steps": 2, "global_batch_size": 2}, {"steps": 1, "global_batch_size": 4}]
    settings = {"total_steps": None, "warmup_steps": 2, "total_tokens": 32 * 24}
    tokens = []
    for name, stages in (("ramped", ramp), ("flat", [])):
        config = tiny(data={**data, "batch_ramp": stages}, scheduler=settings)
        trainer = built(config, run_dir=tmp_path / name)
        assert trainer.state.total_steps == (5 if stages else 3)
        updates = [trainer.loader.next() for _ in range(trainer.state.total_steps)]
        tokens.append(torch.cat([batch.tokens for update in updates for batch in update.micro_batches]))
        if stages:
            assert [update.num_targets for update in updates] == [64, 64, 128, 256, 256]
    error = (tokens[0] != tokens[1]).any(dim=1).sum().item()
    core_row("data.batch_ramp", "rows of the run without a ramp, in order; rows that differ", error, 0.0)


def test_max_repetitions_limit_the_steps_of_a_run(tiny, built, tmp_path):
    def config(limit, **scheduler):
        data = tiny().data.model_dump(mode="json") | {"max_repetitions": limit}
        return tiny(data=data, scheduler={"total_steps": None, "warmup_steps": 2, **scheduler})

    assert built(config(2.0, total_epochs=2.0), run_dir=tmp_path / "a").plan.max_steps is not None
    with pytest.raises(ConfigError, match=r"data\.train_shards would be read 3 times .*max_repetitions=2 allows"):
        built(config(2.0, total_epochs=3.0))
    timed = built(config(0.01, total_seconds=60.0), run_dir=tmp_path / "b")
    assert timed.state.total_steps is None
    assert timed.plan.max_steps >= 1


def test_mfu_uses_the_peak_flops_of_all_ranks(tiny, built, tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "measure_peak_flops", lambda device: 1e12)
    monkeypatch.setattr(build_module, "apply_fsdp", lambda *_: None)  # the other ranks do not exist
    shares = []
    for ranks in (1, 4):
        device = Distributed(0, ranks, torch.device("cpu"), torch.float32)
        telemetry = built(tiny(), run_dir=tmp_path / str(ranks), device=device).reporter._telemetry
        telemetry.charge("training")
        row = telemetry.row(step=1, tokens=1000, wait_seconds=0.0, total_steps=None)
        shares.append(row["perf/mfu_strict"] / row["perf/tokens_per_second"])
    assert shares[0] == pytest.approx(4 * shares[1])


def test_training_evaluates_every_validation_set(tiny, built, core_row):
    config = tiny()
    data = open_data(config)
    sets = {"again": data.validation, "train": data.train[0]}
    metrics = built(config, data=replace(data, validation_sets=sets)).evaluate(2)
    main = {name: value for name, value in metrics.items() if name.count("/") == 1}
    assert len(main) == 5
    error = max(abs(metrics[name.replace("eval/", "eval/again/")] - value) for name, value in main.items())
    core_row("data.validation_sets", "the same text as the main validation: to the bit", error, 0.0)
    assert metrics["eval/train/loss"] != metrics["eval/loss"]
    assert len(metrics) == 15


def test_ema_averages_are_evaluated_sampled_and_saved(tiny, built):
    seen = []
    trainer = built(
        tiny(optimizer={"ema_decay": 0.9}), sampler=lambda model: seen.append(model.lm_head.weight.clone()) or []
    )
    parts = trainer
    before = parts.evaluate(128)["eval/loss"]
    by_hand(trainer, 3)
    name = "model.embed_tokens.weight"
    averages, last = (
        parts.optimizer.average.averages[name].clone(),
        parts.objective.model.get_parameter(name).clone(),
    )
    assert not torch.equal(averages, last)
    parts.sample()
    assert torch.equal(seen[0], averages)
    snapshot = parts.snapshot()
    assert torch.equal(snapshot.weights[name], averages)
    assert torch.equal(snapshot.optimizer[f"{name}.last"], last)
    with parts.optimizer.average_parameters():
        expected = evaluate(
            parts.objective, open_data(tiny()).validation, tiny().data, sequence_length=32, max_tokens=128
        )["eval/loss"]
    assert parts.evaluate(128)["eval/loss"] == expected != before
    assert torch.equal(parts.objective.model.get_parameter(name), last)


def test_build_warns_of_slow_or_unportable_settings(tiny, built, caplog, monkeypatch):
    monkeypatch.setattr(precision, "slowdown", lambda *_: 3.0)
    runtime = tiny().runtime.model_dump(mode="json") | {"precision": "fp16", "tf32": True}
    model = tiny().model.model_dump(mode="json") | {"attn_dropout": 0.1, "partial_rotary_factor": 0.5}
    with caplog.at_level(logging.WARNING):
        trainer = built(tiny(runtime=runtime, model=model))
    assert "only emulates float16" in caplog.text
    assert "model.attn_dropout: the CPU's flash attention has no dropout" in caplog.text
    assert "no Hugging Face class expresses model.partial_rotary_factor=0.5" in caplog.text
    assert "runtime.tf32: only CUDA devices have it" in caplog.text
    assert trainer.loss_scale.value.item() == 2.0**15


def test_document_mask_without_a_kernel_warns(tiny, caplog):
    data = tiny().data.model_dump(mode="json") | {"document_mask": True}
    plan = plan_run(tiny(data=data))
    with caplog.at_level(logging.WARNING):
        for device in ("cpu", "cuda"):
            distributed = Distributed(0, 1, torch.device(device), torch.float32)
            build_module._warn(replace(plan, device=distributed))
    assert caplog.text.count("data.document_mask: no kernel takes all documents at once here") == 1


def test_update_statistics_are_recorded_and_change_no_loss(tiny, tmp_path):
    losses = []
    for every in (None, 2):
        runtime = tiny().runtime.model_dump(mode="json") | {"sample": None, "recompute": "selective"}
        runtime["logging"] |= {"statistics_every_n_steps": every}
        config = tiny(runtime=runtime, scheduler={"total_steps": 4, "warmup_steps": 2})
        run_training(config, tmp_path / str(every), resume=False)
        rows = read_metrics(tmp_path / str(every) / "metrics.jsonl")
        losses.append([row["train/loss"] for row in rows if "train/loss" in row])
    assert losses[0] == losses[1]
    assert [row["step"] for row in rows if "stats/layers.1/activation_rms" in row] == [2, 4]


def test_random_numbers_of_training_begin_with_the_seed(tiny, built, tmp_path):
    numbers = []
    for name in "ab":
        built(tiny(), run_dir=tmp_path / name)
        numbers.append(torch.rand(3))
    assert torch.equal(*numbers)


def test_a_run_as_everyone_makes_it_is_built_without_a_warning(tiny, built, caplog):
    trainer = built(tiny())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert trainer.loss_scale is None


def test_run_that_keeps_no_best_checkpoint_has_no_link(tiny, tmp_path):
    runtime = tiny().runtime.model_dump(mode="json")
    runtime["evaluation"] |= {"best": None}
    run_training(tiny(runtime=runtime), tmp_path / "run", resume=False)
    assert not (tmp_path / "run" / "best").is_symlink()
    assert len(list_checkpoints(tmp_path / "run" / "checkpoints")) == 3
