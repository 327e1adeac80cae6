"""The choice of the tokenizer of a run, the files that preparation writes, and refusals."""

import json
import shutil
from typing import Any

import pytest
from tests.prepared import newest_checkpoint

from candlewick.artifacts.manifest import read_manifest
from candlewick.config.load import load_config
from candlewick.errors import ArtifactError, CheckpointError, ConfigError
from candlewick.runs.orchestrate import orchestrate
from candlewick.runs.prepare import describe_run, prepare_run, training_text
from candlewick.runs.resolve import Request, open_texts, resolve
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.train.plan import Fresh, Resume


@pytest.fixture
def run_dir(tmp_path):
    return tmp_path / "run"


def make(config, run_dir, say, **options):
    """Prepare a run as `orchestrate` does."""
    settings: dict[str, Any] = {"resume": "if_available", "keeps_data": True, **options}
    request = Request(**settings)
    found = prepare_run(resolve(config, run_dir, request), say)
    describe_run(found)
    return found


@pytest.fixture
def prepared(tiny, run_dir):
    """Prepare a run with options, and return what was said of its tokenizer."""

    def prepare(config=None, **options) -> str:
        said = []
        make(config or tiny(), run_dir, said.append, **options)
        return next(line for line in said if line.startswith("tokenizer"))

    return prepare


def test_prepare_writes_special_tokens_and_training_configs(prepared, run_dir, tiny):
    prepared()
    special = json.loads((run_dir / "special_tokens.txt").read_text())
    tokenizer = Tokenizer.load(run_dir / "tokenizer")
    assert special == [
        tokenizer.decode([id], skip_special=False) for id in (0, tokenizer.padding_id) if id is not None
    ]
    yaml, toml = (load_config(run_dir / f"training.{kind}") for kind in ("yaml", "toml"))
    assert yaml == toml
    assert yaml.data.prepared == {"tokens": run_dir / "tokens"}


def test_tokenizer_is_configured_else_of_the_run_else_shared_else_trained(
    prepared, run_dir, tiny, tokenizer, tmp_path
):
    shared, given = tmp_path / "shared", tmp_path / "given"
    first = prepared(shared_tokenizer=shared)
    assert first.startswith(f"tokenizer  made: {shared} ")
    assert read_manifest(shared).id == read_manifest(run_dir / "tokenizer").id
    assert prepared(shared_tokenizer=shared).startswith(f"tokenizer  reused, up to date: {run_dir / 'tokenizer'} ")
    shutil.rmtree(run_dir)
    assert prepared(shared_tokenizer=shared).startswith(f"tokenizer  reused, up to date: {shared} ")
    assert read_manifest(shared).id == read_manifest(run_dir / "tokenizer").id
    given.mkdir()
    tokenizer.write(given)
    config = tiny(tokenizer={"tokenizer_json": str(given)})
    assert prepared(config, shared_tokenizer=shared) == f"tokenizer  given: {given}"
    assert Tokenizer.load(run_dir / "tokenizer").sha256 == tokenizer.sha256
    assert read_manifest(run_dir / "tokenizer").inputs == {"tokenizer": tokenizer.sha256}


def test_shared_tokenizer_without_a_manifest_is_taken_unchanged(prepared, run_dir, tiny, tokenizer, tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "tokenizer.json").write_bytes(tokenizer.json_bytes)
    config = tiny(tokenizer={"vocab_size": 400})
    said = prepared(config, shared_tokenizer=tmp_path / "shared", skip_tokenizer=True)
    assert said.endswith(f"{tokenizer.vocab_size:,} tokens)")


def test_skip_tokenizer_trains_none_and_requires_an_existing_one(prepared, run_dir, tmp_path):
    with pytest.raises(ConfigError, match=rf"there is none in {run_dir}/tokenizer or {tmp_path}/shared .*--tok"):
        prepared(skip_tokenizer=True, shared_tokenizer=tmp_path / "shared")
    with pytest.raises(ConfigError, match=rf"there is none in {run_dir}/tokenizer \("):
        prepared(skip_tokenizer=True)
    prepared()
    assert "reused" in prepared(skip_tokenizer=True)


def test_shared_tokenizer_of_other_settings_is_refused_unless_retrained(prepared, tiny, tmp_path):
    prepared(shared_tokenizer=tmp_path / "shared")
    other = tiny(tokenizer={"vocab_size": 310})
    with pytest.raises(ConfigError, match="was trained with vocab_size=300, not 310 .*--force-retrain"):
        prepared(other, shared_tokenizer=tmp_path / "shared")
    assert "made: " in prepared(other, shared_tokenizer=tmp_path / "shared", retrain_tokenizer=True)
    assert Tokenizer.load(tmp_path / "shared").vocab_size == 310
    assert Tokenizer.load(tmp_path / "run" / "tokenizer").vocab_size == 310
    assert "reused" in prepared(other)  # the run's own, now of these settings
    assert "made: " in prepared(other, retrain_tokenizer=True)


def test_configured_tokenizer_path_may_be_that_of_the_shared_one_to_train(prepared, run_dir, tiny, tmp_path):
    config = tiny(tokenizer={"vocab_size": 300, "tokenizer_json": str(tmp_path / "shared")})
    assert "made: " in prepared(config, shared_tokenizer=tmp_path / "shared")
    assert "reused" in prepared(config, shared_tokenizer=tmp_path / "shared")
    special = config.replaced(tokenizer={"special_tokens": tmp_path / "names.txt"})
    assert "reused" in prepared(special, shared_tokenizer=tmp_path / "shared")
    assert prepared(config) == f"tokenizer  given: {tmp_path / 'shared'}"


def test_retrain_does_not_replace_a_folder_of_something_else(prepared, run_dir):
    (run_dir / "tokenizer").mkdir(parents=True)
    (run_dir / "tokenizer" / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="is not replaced"):
        prepared(retrain_tokenizer=True)


def test_retrain_with_a_configured_tokenizer_is_refused(prepared, tiny, tokens):
    config = tiny(tokenizer={"tokenizer_json": str(tokens / "tokenizer")})
    with pytest.raises(ConfigError, match=r"--force-retrain-tokenizer, but .* is given"):
        prepared(config, retrain_tokenizer=True)


def test_resume_needs_a_checkpoint_and_makes_missing_tokens_again(prepared, run_dir, trained_copy, tiny):
    with pytest.raises(CheckpointError, match="no checkpoint in .*train without --resume"):
        prepared(resume="required")
    shutil.copytree(trained_copy / "checkpoints", run_dir / "checkpoints")
    assert "reused" in prepared(resume="required")  # its tokens lie elsewhere
    saved = read_manifest(newest_checkpoint(run_dir / "checkpoints"))
    assert read_manifest(run_dir / "tokens").id == saved.inputs["tokens"]


def test_existing_tokens_are_taken_without_a_stage(tiny, tokens, run_dir):
    config = tiny(data={**tiny().data.model_dump(mode="json"), "train_shards": [str(tokens)]})
    said = []
    found = make(config, run_dir, said.append)
    ids = {name: dataset.id for name, dataset in found.datasets.items()}
    assert (said, ids, found.start) == ([], {"tokens": read_manifest(tokens).id}, Fresh())
    assert load_config(run_dir / "training.yaml").data.train_shards == (str(tokens),)


def test_run_on_other_text_is_refused_and_missing_tokens_are_made_again(tiny, run_dir, text_dir, tmp_path):
    text = tmp_path / "text.txt"
    shutil.copy(text_dir / "00.txt", text)
    data = {**tiny().data.model_dump(mode="json"), "train_shards": [str(text)]}
    config = tiny(data=data, scheduler={"total_steps": 2, "warmup_steps": 1})
    orchestrate(config, run_dir, print)
    shutil.rmtree(run_dir / "tokens")
    said = []
    assert isinstance(make(config, run_dir, said.append, resume="required").start, Resume)
    assert [line.split()[:2] for line in said] == [["tokenizer", "reused,"], ["tokens", "made:"]]
    text.write_text(text.read_text() + "more\n")
    with pytest.raises(ConfigError, match="holds a run on other text"):
        make(config, run_dir, said.append)


def test_tokenizer_reads_a_file_that_two_sources_name_once(tiny, text_dir):
    sources = [{"shards": [str(path)], "weight": 1} for path in (text_dir / "00.txt", text_dir)]
    data = tiny(data={"train_shards": [], "mixture": sources}).data
    text = training_text(data, open_texts(data))
    assert len(text.files) == len({file.place for file in text.files}) == 12
