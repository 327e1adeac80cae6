import fcntl
import os

import pytest

from candlewick.artifacts.manifest import read_manifest
from candlewick.config import DataConfig, RunConfig, TokenizerConfig
from candlewick.data.shards.clean import Cleaning
from candlewick.errors import ArtifactError, ConfigError, DataError
from candlewick.runs.datasets import (
    KNOWN_DATASETS,
    Outputs,
    ShardSettings,
    clear_cache,
    fetch_datasets,
    find_cached,
    inspect_dataset,
    prepare_dataset,
    preprocess_corpora,
    verify_dataset,
    write_shards,
)


@pytest.fixture
def config(text_dir, tokenizer_folder):
    """A configuration with text and a tokenizer."""
    data = DataConfig(train_shards=(str(text_dir / "00.txt"), str(text_dir / "01.txt")), num_workers=1)
    return RunConfig(data=data, tokenizer=TokenizerConfig(tokenizer_json=tokenizer_folder))


@pytest.fixture
def corpora(tmp_path):
    """A folder with two corpora, `a` of text and `b` of text shards."""
    (tmp_path / "raw" / "a").mkdir(parents=True)
    text = tmp_path / "raw" / "a" / "1.txt"
    text.write_text("A line of text that is long enough.\n")
    outputs = Outputs(tmp_path / "raw" / "b", tmp_path / "val")
    write_shards([str(text)], outputs, ShardSettings(), DataConfig())
    return tmp_path / "raw"


def preprocess(folder, output, which):
    config = DataConfig(documents="file")
    return preprocess_corpora([folder], output, Cleaning(), config, format="jsonl", which=which)


def test_prepared_dataset_is_verified_inspected_and_reused(config, tmp_path):
    made = prepare_dataset(config, tmp_path / "ds", None)
    assert (made["reused"], made["output"]) == (False, str(tmp_path / "ds"))
    assert prepare_dataset(config, tmp_path / "ds", tmp_path / "tokenizer") == {**made, "reused": True}
    checked = verify_dataset(tmp_path / "ds")
    manifest = read_manifest(tmp_path / "ds")
    assert (checked["id"], checked["files"]) == (made["id"], len(manifest.files))
    assert checked["bytes"] == sum(entry.bytes for entry in manifest.files)
    shown = inspect_dataset(tmp_path / "ds", 5)
    assert (shown["id"], len(shown["ids"])) == (made["id"], 5)
    assert shown["text"].startswith("<|endoftext|>")
    assert "text" not in inspect_dataset(tmp_path / "ds", 0)


def test_prepare_needs_a_tokenizer_and_one_source(config, tmp_path):
    with pytest.raises(ConfigError, match="no tokenizer is named"):
        prepare_dataset(RunConfig(data=config.data), tmp_path / "ds", None)
    mixture = RunConfig.model_validate_json('{"data": {"mixture": [{"shards": ["a"]}]}}')
    with pytest.raises(ConfigError, match="a mixture is prepared one source at a time"):
        prepare_dataset(mixture, tmp_path / "ds", tmp_path / "tokenizer")


def test_written_shards_have_ids_and_verify_detects_a_changed_byte(text_dir, tmp_path):
    outputs = Outputs(tmp_path / "train", tmp_path / "val")
    settings = ShardSettings(validation_fraction=0.5)
    result = write_shards([str(text_dir)], outputs, settings, DataConfig(documents="file"))
    assert [shards["output"] for shards in result["outputs"]] == [str(tmp_path / "train"), str(tmp_path / "val")]
    assert result["outputs"][0]["id"] == read_manifest(tmp_path / "train").id
    again = write_shards([str(text_dir)], outputs, settings, DataConfig(documents="file"))
    assert again == {**result, "reused": True}
    shard = tmp_path / "train" / "train_0000.jsonl"
    sizes = {"files": 1, "bytes": shard.stat().st_size}
    assert verify_dataset(tmp_path / "train") == {"dataset": str(tmp_path / "train"), "ok": True, **sizes}
    shard.write_bytes(shard.read_bytes()[:-1] + b" ")
    with pytest.raises(ArtifactError, match=r"train_0000\.jsonl has sha256"):
        verify_dataset(tmp_path / "train")


def test_shard_runs_with_a_common_cache_download_into_separate_folders(monkeypatch, tmp_path):
    folders = []

    def shard(sources, outputs, *_, **__):
        folders.append(outputs.downloads)
        return [], False

    monkeypatch.setattr("candlewick.runs.datasets.write_text_shards", shard)
    for name in ("one", "two"):
        outputs = Outputs(tmp_path / name, tmp_path / "val")
        write_shards([], outputs, ShardSettings(), DataConfig(), cache=tmp_path / "cache")
    assert [folder.parent for folder in folders] == [tmp_path / "cache"] * 2
    assert len(set(folders)) == 2


def test_fetched_datasets_are_named_after_their_address(hub, tmp_path):
    assert KNOWN_DATASETS["pg19"] == "hf://datasets/emozilla/pg19"
    hub.commit("datasets/me/a", {"train.jsonl": b'{"text": "one"}\n'})
    (result,) = fetch_datasets(["hf://datasets/me/a"], tmp_path, 1, take=None, documents_per_shard=9)
    assert (result.dataset.name, result.reused) == ("a", False)
    assert (tmp_path / "a" / "train_0000.jsonl").exists()


@pytest.mark.parametrize(
    ("which", "names"),
    [("all", ["a_corpus", "b_corpus"]), ("fetched", ["b_corpus"]), ("mixed_corpus", ["mixed_corpus"])],
)
def test_preprocess_writes_each_corpus_or_one_mixed(corpora, tmp_path, which, names):
    details = preprocess(corpora, tmp_path / "out", which)
    assert list(details) == sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert sum(each["total_lines"] for each in details.values()) == (1 if which == "fetched" else 2)


def test_folder_of_text_is_one_corpus(corpora, tmp_path):
    assert list(preprocess(corpora / "a", tmp_path / "out", "all")) == ["a_corpus"]


def test_text_beside_corpora_is_an_error_unless_mixed(corpora, tmp_path):
    (corpora / "loose.txt").write_text("A line that is long enough.\n")
    with pytest.raises(ConfigError, match="has text beside folders of corpora"):
        preprocess(corpora, tmp_path / "out", "all")
    assert preprocess(corpora, tmp_path / "out", "mixed_corpus")["mixed_corpus"]["total_lines"] == 3


def test_folder_without_corpora_is_an_error(corpora, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        preprocess(tmp_path / "nothing", tmp_path / "out", "all")
    with pytest.raises(DataError, match="nothing that `candlewick data fetch` brought"):
        preprocess(corpora / "a", tmp_path / "out", "fetched")


@pytest.fixture
def cache(tmp_path):
    """A cache with two unfinished folders, one of which was used a day and a half ago."""
    for name, days in (("tokens-a", 1.5), ("tokens-b", 0)):
        (tmp_path / "cache" / name).mkdir(parents=True)
        (tmp_path / "cache" / name / "x").write_bytes(bytes(7))
        moment = (tmp_path / "cache" / name).stat().st_mtime - days * 86_400
        os.utime(tmp_path / "cache" / name, (moment, moment))
    return tmp_path / "cache"


def test_folders_of_a_cache_are_found_by_name_and_by_the_days_without_use(cache):
    def names(*of: str, days: int | None = None) -> list[str]:
        return [folder.name for folder in find_cached(cache, of, days)]

    assert names() == ["tokens-a", "tokens-b"]
    assert (names("tokens-b"), names("tokens-b", days=1)) == (["tokens-b"], ["tokens-a", "tokens-b"])
    assert (names(days=2), names(days=1), names(days=0)) == ([], ["tokens-a"], ["tokens-a", "tokens-b"])
    with pytest.raises(DataError, match=r"cache has no \.\., tokens-c \(fix: see `candlewick data cache .*cache`"):
        names("tokens-a", "tokens-c", "..")


def test_a_cache_is_cleared_of_what_no_run_uses(cache):
    folders = find_cached(cache)
    with (cache / "tokens-a").joinpath("manifest.json").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        with pytest.raises(DataError, match=r"tokens-a is in use; removed: tokens-b \(fix: remove it when"):
            clear_cache(cache, folders)
    assert [path.name for path in cache.iterdir()] == ["tokens-a"]
    assert clear_cache(cache, folders[:1]) == ["tokens-a"]
    assert clear_cache(cache, []) == []
