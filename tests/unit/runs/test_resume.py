from pathlib import Path

import pytest
from tests.prepared import newest_checkpoint

from candlewick.checkpoint.open import Checkpoint
from candlewick.config import RunConfig
from candlewick.config.load import load_config
from candlewick.errors import CheckpointError, ConfigError
from candlewick.runs.resume import _is_pinned, require_same_settings, result_settings, resume_run


@pytest.fixture
def newest(trained):
    return Checkpoint.open(newest_checkpoint(trained / "checkpoints"), need={"weights"})


def with_parent(parent: str | None) -> RunConfig:
    return RunConfig.model_validate({"runtime": {"checkpoint": {"init_from": parent}}})


def test_resume_takes_the_parent_and_the_tokenizer_from_the_manifest(newest):
    config, start = resume_run(with_parent(None), newest)
    assert config == with_parent(None)
    assert (start.checkpoint, start.parent, start.tokenizer_sha256) == (newest, None, newest.tokenizer.sha256)


def test_resume_with_another_init_from_is_refused(newest):
    with pytest.raises(ConfigError, match=r"has runtime\.checkpoint\.init_from=None, it goes on with /nowhere"):
        resume_run(with_parent("/nowhere"), newest)


def test_resume_keeps_the_commit_that_an_address_of_the_hub_had_at_first(newest, monkeypatch):
    commit, name = "a" * 40, "hf://me/model"
    state = {**newest.state, "config": with_parent(f"{name}@{commit}").model_dump(mode="json")}
    monkeypatch.setitem(vars(newest), "state", state)
    assert resume_run(with_parent(name), newest)[0] == with_parent(f"{name}@{commit}")
    with pytest.raises(ConfigError, match=f"init_from={name}@{commit}, it goes on with None"):
        resume_run(with_parent(None), newest)


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


def test_different_settings_are_named_with_both_values(trained, newest):
    config = load_config(trained / "config.yaml")
    for all_sections in (False, True):
        require_same_settings(config, newest, all_sections=all_sections)
    seed = config.replaced(runtime={"seed": 9}, tokenizer={"special_tokens": Path("x" * 299)})
    require_same_settings(seed, newest, all_sections=False)
    with pytest.raises(
        ConfigError, match=r"settings: tokenizer\.special_tokens \(was None, is x{200}\), .*seed \(was 42, is 9"
    ):
        require_same_settings(seed, newest, all_sections=True)
    heads = config.replaced(model={"num_attention_heads": 4})
    with pytest.raises(CheckpointError, match=r"model\.num_attention_heads \(was 2, is 4\).*put them back"):
        require_same_settings(heads, newest, all_sections=False)
