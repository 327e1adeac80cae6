"""Resolving a run: how often files are opened, and refusals before anything is written."""

import subprocess
import sys
from collections import Counter

import pytest
from tests.prepared import newest_checkpoint, prepare

from candlewick.artifacts import manifest as manifest_module
from candlewick.artifacts.build import hold_folder
from candlewick.checkpoint.open import Checkpoint
from candlewick.config.load import load_config
from candlewick.data.text.corpus import Corpus
from candlewick.errors import CheckpointError, ConfigError
from candlewick.runs import resolve as module
from candlewick.runs.resolve import Request, open_texts, resolve
from candlewick.runs.train import run_training
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.train.plan import Fresh, InitFrom, Resume


@pytest.fixture
def counted(monkeypatch):
    """Count what a run opens from now on: files that are hashed, tokenizers, corpora."""
    counts = Counter()
    file_sha256, init, open_corpus = manifest_module.file_sha256, Tokenizer.__init__, module.open_text

    def hash_file(path):
        counts[str(path)] += 1
        return file_sha256(path)

    def make_tokenizer(self, *args, **settings):
        counts["tokenizers"] += 1
        init(self, *args, **settings)

    def open_text(*args, **settings):
        counts["corpora"] += 1
        return open_corpus(*args, **settings)

    monkeypatch.setattr(manifest_module, "file_sha256", hash_file)
    monkeypatch.setattr(Tokenizer, "__init__", make_tokenizer)
    monkeypatch.setattr(module, "open_text", open_text)
    return counts


def test_resume_hashes_each_file_once_and_builds_one_tokenizer(tiny, trained_copy, counted):
    config = load_config(trained_copy / "config.yaml").replaced(scheduler={"total_steps": 13})
    newest = newest_checkpoint(trained_copy / "checkpoints")
    counted.clear()
    run_training(config, trained_copy, resume=True)
    verified = (path for path in newest.rglob("*.*") if path.name not in ("manifest.json", "README.md"))
    files = {str(path): counted[str(path)] for path in verified}
    assert files == dict.fromkeys(files, 1)
    assert (counted["tokenizers"], counted["corpora"]) == (1, 0)
    tokens = str(config.data.prepared["tokens"])
    assert {count for name, count in counted.items() if name.startswith(tokens)} == {1}


def test_prepare_opens_the_text_once_and_builds_one_tokenizer(tiny, trained, counted, tmp_path):
    prepare(tiny(), tmp_path / "run")
    assert (counted["tokenizers"], counted["corpora"]) == (1, 1)


def test_prepare_of_a_mixture_opens_each_source_once(tiny, text_dir, tmp_path, counted):
    mixture = [{"shards": [str(text_dir / f"0{i}.txt")]} for i in (3, 4)]
    sides = {"train_shards": [], "mixture": mixture, "cache_dir": str(tmp_path / "cache")}
    prepare(tiny(data={**tiny().data.model_dump(mode="json"), **sides}), tmp_path / "run")
    assert counted["corpora"] == 2


def test_resolve_and_prepare_import_no_torch():
    code = "import sys, candlewick.runs.prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_resolve_of_a_new_run_gives_start_and_texts(tiny, text_dir, tmp_path):
    plan = resolve(tiny(), tmp_path / "run", Request())
    assert plan.texts is not None
    assert (plan.start, plan.folders, list(plan.texts)) == (Fresh(), None, ["tokens"])
    assert isinstance(plan.texts["tokens"], Corpus)
    assert (plan.tokenizer.tokenizer, plan.tokenizer.reason, plan.tokenizer.source) == (None, "trained", None)
    assert not (tmp_path / "run").exists()
    kept = resolve(tiny(), tmp_path / "run", Request(keeps_data=True))
    assert kept.folders == {"tokens": tmp_path / "run" / "tokens"}
    assert kept.tokenizer.source == tmp_path / "run" / "tokenizer"


@pytest.mark.parametrize(("resume", "error"), [("never", ConfigError), ("if_available", None), ("required", None)])
def test_folder_with_a_run_is_resumed_or_refused(tiny, trained, resume, error):
    config = load_config(trained / "config.yaml")
    if error is None:
        assert isinstance(resolve(config, trained, Request(resume=resume)).start, Resume)
    else:
        with pytest.raises(error, match="holds a run already .*--resume"):
            resolve(config, trained, Request(resume=resume))


def test_a_folder_without_a_run_is_started_or_refused(tiny, tmp_path):
    assert resolve(tiny(), tmp_path, Request(resume="if_available")).start == Fresh()
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        resolve(tiny(), tmp_path, Request(resume="required"))


def test_resume_with_other_settings_is_refused_by_name(tiny, orchestrated):
    request = Request(resume="if_available", keeps_data=True)
    resolve(tiny(), orchestrated, request)
    with pytest.raises(ConfigError, match=r"was written with other settings: runtime.seed \(was 42, is 9\)"):
        resolve(tiny(runtime={**tiny().runtime.model_dump(mode="json"), "seed": 9}), orchestrated, request)


@pytest.fixture
def other_tokenizer(tokenizer, tmp_path):
    """The folder of a tokenizer that no run was trained with."""
    (tmp_path / "other").mkdir()
    tokenizer.write(tmp_path / "other")
    return tmp_path / "other"


def test_resume_with_another_tokenizer_is_refused_before_text_is_opened(
    tiny, trained, other_tokenizer, tokenizer, counted
):
    saved = newest_checkpoint(trained / "checkpoints")
    said = f"other has sha256 {tokenizer.sha256[:12]}, the tokenizer of {saved} has .*leave tokenizer"
    for config in (tiny(), load_config(trained / "config.yaml")):  # with text, and with its tokens
        with pytest.raises(ConfigError, match=said):
            resolve(
                config.replaced(tokenizer={"tokenizer_json": other_tokenizer}), trained, Request(resume="required")
            )
    assert counted["corpora"] == 0


def test_resume_on_text_takes_the_tokenizer_of_the_checkpoint(tiny, trained_copy, tmp_path):
    data = {**tiny().data.model_dump(mode="json"), "cache_dir": str(tmp_path / "cache")}
    config = tiny(data=data, scheduler={"total_steps": 13})
    assert run_training(config, trained_copy, resume=True)["steps"] == 13
    # the tokens are made again, no tokenizer is
    assert [path.name.partition("-")[0] for path in (tmp_path / "cache").iterdir()] == ["tokens"]


def test_resume_keeps_its_tokenizer_when_asked_to_retrain_and_says_so(tiny, orchestrated, caplog):
    plan = resolve(tiny(), orchestrated, Request(resume="if_available", keeps_data=True, retrain_tokenizer=True))
    assert isinstance(plan.start, Resume)
    assert plan.tokenizer.tokenizer is plan.start.checkpoint.tokenizer
    assert "--force-retrain-tokenizer is left out: the run in" in caplog.text


def test_tokenizer_of_a_run_with_a_parent_is_the_parents_or_that_with_chat_tokens(
    tiny, trained, other_tokenizer, tmp_path
):
    base = Checkpoint.open(trained, need={"weights"}).tokenizer
    child = tiny(runtime={"checkpoint": {"init_from": str(trained)}})
    for name, tokenizer in (("base", base), ("chat", base.with_chat_tokens())):
        (tmp_path / name).mkdir()
        tokenizer.write(tmp_path / name)
        config = child.replaced(tokenizer={"tokenizer_json": tmp_path / name})
        plan = resolve(config, tmp_path / "run", Request())
        assert plan.config.tokenizer.tokenizer_json == plan.tokenizer.source == tmp_path / name
    plan = resolve(child, tmp_path / "run", Request())
    assert isinstance(plan.start, InitFrom)
    assert plan.tokenizer.tokenizer is plan.start.checkpoint.tokenizer
    with pytest.raises(ConfigError, match=r"other has sha256 \w{12}, the tokenizer of"):
        resolve(child.replaced(tokenizer={"tokenizer_json": other_tokenizer}), tmp_path / "run", Request())


def test_second_process_in_a_run_folder_is_refused(tiny, tmp_path):
    with hold_folder(tmp_path / "run", "wait"), pytest.raises(CheckpointError, match="is in use by"):
        run_training(tiny(), tmp_path / "run", resume=False)


def test_hub_dataset_is_listed_once_and_all_parts_have_one_commit(tiny, hub):
    text = b'{"text": "one"}\n'
    commit = hub.commit("datasets/me/web", {"a/0.jsonl": text, "b/1.jsonl": text * 2})

    def commits(*uris):
        hub.requests.clear()
        found = open_texts(tiny().data.replaced(train_shards=uris[:1], validation_sets={"set": uris[1:]}))
        repos = {file.hub[0].revision for text in found.values() for file in text.files if file.hub is not None}
        return repos, hub.asked("GET .*/tree/")

    uris = [f"hf://datasets/me/web/{folder}" for folder in "ab"]
    assert commits(*uris) == ({commit}, 2)

    def push(request):  # somebody pushes between the two listings
        if "/tree/" in request.path and "/a" in request.path:
            hub.commit("datasets/me/web", {"a/0.jsonl": text * 3, "b/1.jsonl": text * 4})

    hub.plan = push
    assert commits(*uris)[0] == {commit}
    assert hub.repos["datasets/me/web"].refs["main"] != commit


@pytest.mark.parametrize("resume", ["never", "if_available", "required"])
def test_other_checkpoint_directory_of_a_run_is_refused(tiny, trained, tmp_path, resume):
    elsewhere = tiny().replaced(runtime={"checkpoint": {"directory": tmp_path / "empty"}})
    with pytest.raises(ConfigError, match=r"checkpoints of .* lie in .*/checkpoints, its settings say .*/empty"):
        resolve(elsewhere, trained, Request(resume=resume))


def test_resumed_run_on_text_of_the_hub_keeps_its_number_of_tokens(tiny, hub, tmp_path):
    hub.commit(
        "datasets/me/web", {"train.jsonl": b"".join(b'{"text": "some words %d"}\n' % i for i in range(2000))}
    )
    data = {**tiny().data.model_dump(mode="json"), "train_shards": ["hf://datasets/me/web"]}
    data |= {"cache_dir": str(tmp_path / "cache"), "validation_fraction": 0.1}
    run_training(tiny(data=data, scheduler={"total_steps": 4, "warmup_steps": 1}), tmp_path / "run", resume=False)
    longer = tiny(data=data, scheduler={"total_steps": 6, "warmup_steps": 1})
    assert run_training(longer, tmp_path / "run", resume=True)["steps"] == 6
