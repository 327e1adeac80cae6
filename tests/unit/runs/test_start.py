import json
import shutil
from pathlib import Path

import pytest
from tests.prepared import newest_checkpoint

from candlewick.artifacts.manifest import file_sha256, read_manifest
from candlewick.checkpoint.huggingface import from_hf_config
from candlewick.checkpoint.open import Checkpoint
from candlewick.config import RunConfig
from candlewick.errors import CheckpointError, ConfigError
from candlewick.runs.resolve import Request, resolve
from candlewick.runs.start import (
    _is_pinned,
    continue_run,
    inherit_model,
    open_parent,
    result_settings,
)
from candlewick.runs.train import run_training
from candlewick.tokenizer.bpe import Tokenizer


@pytest.fixture
def checkpoint(trained):
    return newest_checkpoint(trained / "checkpoints")


def starting_from(config: RunConfig, path: Path) -> RunConfig:
    """The config with the model of a checkpoint, for its tokenizer."""
    checkpoint = Checkpoint.open(path, need={"weights"})
    return inherit_model(config, checkpoint, checkpoint.tokenizer)


def config_of(**model) -> RunConfig:
    return RunConfig.model_validate({"model": model})


def test_init_from_takes_model_and_tokenizer_of_the_checkpoint(checkpoint):
    found = starting_from(RunConfig(), checkpoint)
    shape, rows = from_hf_config(checkpoint / "config.json")
    assert found.model == shape.replaced(vocab_size=rows)
    assert found.tokenizer.tokenizer_json == checkpoint
    assert found.sequence_length == 32
    assert starting_from(found, checkpoint) == found


def test_init_from_a_run_folder_takes_its_newest_checkpoint(trained, checkpoint):
    assert starting_from(RunConfig(), trained).tokenizer.tokenizer_json == checkpoint


def test_init_from_refuses_contradicting_settings_with_both_values(checkpoint):
    with pytest.raises(
        ConfigError,
        match=r"hidden_size=64 \(the checkpoint has 32\), model\.num_layers=3 \(the .* 2\).*"
        r"leave out model\.hidden_size, model\.num_layers: ",
    ):
        starting_from(config_of(hidden_size=64, num_layers=3, num_attention_heads=2), checkpoint)


def test_init_from_allows_settings_that_change_no_weight(checkpoint):
    free = {"attn_dropout": 0.25, "residual_dropout": 0.5, "rope_mode": "on_the_fly", "vocab_size": 448}
    model = starting_from(config_of(**free, hidden_size=32, num_attention_heads=2), checkpoint).model
    assert {name: getattr(model, name) for name in free} == free
    with pytest.raises(ConfigError, match=r"rope_mode=off \(the checkpoint has preapply\)"):
        starting_from(config_of(rope_mode="off"), checkpoint)
    with pytest.raises(ConfigError, match=r"model\.vocab_size=300 is smaller than the 320 rows"):
        starting_from(config_of(vocab_size=300), checkpoint)


def test_init_from_allows_a_longer_context_and_limits_the_rows(checkpoint):
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}
    free = {"max_position_embeddings": 64, "rope_scaling": yarn, "rope_theta": 5e3, "sliding_window": 9}
    found = starting_from(config_of(**free, full_attention_every=7), checkpoint)
    assert found.model.model_dump(include=set(free), exclude_defaults=True) == free
    assert (found.model.full_attention_every, found.sequence_length) == (7, 64)


def child_of(parent, **sections) -> RunConfig:
    runtime = {"checkpoint": {"init_from": parent and str(parent)}, "device": "cpu"}
    return RunConfig.model_validate({"runtime": runtime, "scheduler": {"total_steps": 1}, **sections})


def test_resolve_refuses_untrainable_settings_with_init_from(trained, tmp_path):
    for sections, said in (
        ({"data": {"sequence_length": 64}}, r"sequence_length=64 exceeds the context of .*, 32 tokens"),
        (
            {"data": {"micro_batch_size": 8, "global_batch_size": 12}},
            "12 is not a multiple",
        ),
        ({"scheduler": {}}, "the run has no end"),
    ):
        with pytest.raises(ConfigError, match=said):
            resolve(child_of(trained, **sections), tmp_path, Request())


def test_parent_is_identified_by_its_manifest_id_or_its_weights(trained, checkpoint, tmp_path):
    config, start = open_parent(child_of(None), str(trained))
    assert start.parent == read_manifest(checkpoint).id
    assert config == child_of(trained)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        shutil.copy(checkpoint / name, tmp_path)
    assert open_parent(config, str(tmp_path))[1].parent == file_sha256(tmp_path / "model.safetensors")


def test_init_from_accepts_the_settings_of_the_parent_run(tiny, tmp_path):
    shape = tiny().model.model_dump(mode="json", exclude={"vocab_size"})
    shape |= {"rope_scaling": {"rope_type": "ntk", "alpha": 4.0}, "rope_mode": "on_the_fly", "attn_dropout": 0.1}
    shape |= {"sliding_window": 8, "full_attention_every": 5}
    config = tiny(model=shape, scheduler={"total_steps": 1, "warmup_steps": 0})
    run_training(config, tmp_path / "run", resume=False)
    anew = RunConfig.model_validate({})
    for written in (config, anew):
        found = starting_from(written.replaced(tokenizer=anew.tokenizer), tmp_path / "run")
        assert found.model == config.model.replaced(vocab_size=320)


def test_init_from_adds_vocabulary_rows_when_chat_tokens_do_not_fit(checkpoint, tmp_path):
    chat = RunConfig.model_validate({"data": {"format": "chat", "train_shards": ("chats.jsonl",)}})
    assert starting_from(chat, checkpoint).model.vocab_size == 320  # 302 tokens
    folder = shutil.copytree(checkpoint, tmp_path / "full")
    shape = (folder / "config.json").read_text()
    (folder / "manifest.json").unlink()  # a folder from elsewhere
    (folder / "config.json").write_text(shape.replace('"vocab_size": 320', '"vocab_size": 301'))
    assert starting_from(chat, folder).model.vocab_size == 320
    assert starting_from(RunConfig(), folder).model.vocab_size == 301


def test_init_from_refuses_rows_longer_than_the_context(checkpoint):
    with pytest.raises(ConfigError, match=r"do not fit the model of .*sequence_length=64 exceeds"):
        starting_from(RunConfig.model_validate({"data": {"sequence_length": 64}}), checkpoint)


def test_init_from_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        starting_from(RunConfig(), tmp_path / "nowhere")


def test_init_from_the_hub_lists_the_model_once(tiny, checkpoint, hub):
    paths = [path for path in checkpoint.rglob("*.*") if path.name != "manifest.json"]
    files = {str(path.relative_to(checkpoint)): path.read_bytes() for path in paths}
    commit = hub.commit("me/model", files)
    config, start = open_parent(tiny(), "hf://me/model")
    assert config.runtime.checkpoint.init_from == f"hf://me/model@{commit}"
    assert (start.checkpoint.shape, start.checkpoint.tokenizer.sha256) == (
        Checkpoint.open(checkpoint, need={"weights"}).shape,
        Tokenizer.load(checkpoint).sha256,
    )
    assert not [request.path for request in hub.requests if "training/" in request.path]
    asked = [request.path for request in hub.requests if "/models/me/model" in request.path]
    assert len([path for path in asked if "/tree/" in path and "cursor" not in path]) == 1
    assert len([path for path in asked if "/tree/" not in path and "/resolve/" not in path]) == 1  # the commit


@pytest.fixture
def newest(trained):
    return Checkpoint.open(newest_checkpoint(trained / "checkpoints"), need={"weights"})


def with_parent(parent: str | None) -> RunConfig:
    return RunConfig.model_validate({"runtime": {"checkpoint": {"init_from": parent}}})


def test_resume_takes_the_parent_and_the_tokenizer_from_the_manifest(newest):
    config, start = continue_run(with_parent(None), newest)
    assert config == with_parent(None)
    assert (start.checkpoint, start.parent, start.tokenizer_sha256) == (newest, None, newest.tokenizer.sha256)


def test_resume_with_another_init_from_is_refused(newest):
    with pytest.raises(ConfigError, match=r"has runtime\.checkpoint\.init_from=None, it goes on with /nowhere"):
        continue_run(with_parent("/nowhere"), newest)


def test_resume_keeps_the_commit_that_an_address_of_the_hub_had_at_first(newest, monkeypatch):
    commit, name = "a" * 40, "hf://me/model"
    state = {**newest.state, "config": with_parent(f"{name}@{commit}").model_dump(mode="json")}
    monkeypatch.setitem(vars(newest), "state", state)
    assert continue_run(with_parent(name), newest)[0] == with_parent(f"{name}@{commit}")
    with pytest.raises(ConfigError, match=f"init_from={name}@{commit}, it goes on with None"):
        continue_run(with_parent(None), newest)


def test_an_address_is_pinned_by_a_commit_of_the_same_model_alone():
    commit, name = "a" * 40, "hf://me/model"
    assert _is_pinned(name, f"{name}@{commit}")
    assert _is_pinned(f"{name}@main", f"{name}@{commit}")
    assert not _is_pinned(f"{name}@{'b' * 40}", f"{name}@{commit}")
    assert not _is_pinned(f"{name}@v10", f"{name}@v2")  # neither is a commit
    assert not _is_pinned("hf://me/other", f"{name}@{commit}")
    assert not _is_pinned("folder", f"{name}@{commit}")


def test_result_settings_leave_out_what_changes_no_result(tiny):
    other = tiny().replaced(
        data={"num_workers": 5}, runtime={"log_every_n_steps": 7, "logging": {"level": "error"}}
    )
    assert result_settings(other) == result_settings(tiny())
    assert result_settings(tiny().replaced(runtime={"seed": 1})) != result_settings(tiny())


QUIET = {"device": "cpu", "logging": {"enable_stdout": False}}


def generation_of(run: Path) -> dict:
    return json.loads((newest_checkpoint(run / "checkpoints") / "generation_config.json").read_bytes())


@pytest.mark.parametrize("tokenizer", ["of the checkpoint", "of the settings"])
def test_a_run_keeps_the_generation_settings_and_the_template_of_what_it_starts_from(
    tiny, checkpoint, tmp_path, tokenizer
):
    parent = shutil.copytree(checkpoint, tmp_path / "parent")
    (parent / "manifest.json").unlink()  # a folder from elsewhere
    settings = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "eos_token_id": [7, 0]}
    (parent / "generation_config.json").write_text(json.dumps(settings | {"transformers_version": "9"}))
    (parent / "chat_template.jinja").write_text("theirs")
    runtime = {"checkpoint": {"init_from": str(parent), "every_n_steps": 1}}
    if tokenizer == "of the settings":
        shutil.copytree(parent, tmp_path / "tokenizer")
        (tmp_path / "tokenizer" / "generation_config.json").unlink()
    named = {"tokenizer_json": str(tmp_path / "tokenizer")} if tokenizer == "of the settings" else {}
    for steps in (1, 2):  # the second goes on
        schedule = {"warmup_steps": 0, "total_steps": steps}
        config = tiny(runtime={**QUIET, **runtime}, tokenizer=named, scheduler=schedule)
        run_training(config, tmp_path / "run", resume=steps == 2)
        found = generation_of(tmp_path / "run")
        assert found.items() >= (settings | {"bos_token_id": 0}).items()
        assert not {"top_k", "transformers_version"} & found.keys()
        written = newest_checkpoint(tmp_path / "run" / "checkpoints") / "tokenizer_config.json"
        assert json.loads(written.read_bytes())["chat_template"] == "theirs"
