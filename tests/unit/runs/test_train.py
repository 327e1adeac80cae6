import shutil
import subprocess
import sys

import pytest
from tests.prepared import open_data, prepare

from candlewick.artifacts.manifest import read_manifest
from candlewick.checkpoint.layout import list_checkpoints
from candlewick.config.load import load_config
from candlewick.config.seal import read_run_id
from candlewick.errors import CheckpointError, ConfigError, DataError, MachineError
from candlewick.runs import complete
from candlewick.runs.train import hold_run, run_training
from candlewick.train.monitor.trackers import read_metrics
from candlewick.train.saver import Saver


def with_data(tiny, **settings):
    """`tiny()` with other data settings."""
    return tiny(data={**tiny().data.model_dump(mode="json"), **settings})


def test_prepare_repeated_reuses_tokens_and_tokenizer(tiny, cache):
    first = prepare(tiny())
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    second = prepare(tiny())
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()} == before
    assert first.datasets["tokens"].id == second.datasets["tokens"].id
    assert first.tokenizer.vocab_size == 300
    data = open_data(tiny())
    assert (data.train[0].name, data.validation.name) == ("train", "validation")


def test_token_dataset_provides_its_tokenizer(tiny, tokens):
    text, data = prepare(tiny()), prepare(with_data(tiny, train_shards=[str(tokens)], cache_dir=None))
    assert data.datasets["tokens"].id == text.datasets["tokens"].id
    assert data.tokenizer.sha256 == text.tokenizer.sha256


def test_other_tokenizer_gives_other_tokens(tiny, tokens, tokenizer, tokenizer_folder, tmp_path):
    copy = shutil.copy(tokenizer_folder / "tokenizer.json", tmp_path / "mine.json")
    folder, file = (prepare(tiny(tokenizer={"tokenizer_json": str(path)})) for path in (tokenizer_folder, copy))
    assert folder.tokenizer.sha256 == file.tokenizer.sha256 == tokenizer.sha256
    ids = [found.datasets["tokens"].id for found in (folder, file, prepare(tiny()))]
    assert ids[0] == ids[1] != ids[2]
    config = tiny(tokenizer={"tokenizer_json": str(tokenizer_folder)}, data={"train_shards": [str(tokens)]})
    with pytest.raises(DataError, match="was prepared with tokenizer"):
        open_data(config)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"train_shards": []}, "no text to train on"),
        ({"cache_dir": None}, "no folder to keep prepared text in"),
        ({"train_shards": ["TOKENS", "TEXT"]}, "cannot stand beside other sources"),
    ],
)
def test_impossible_data_settings_are_refused(tiny, tokens, text_dir, settings, said):
    names = {"TOKENS": str(tokens), "TEXT": str(text_dir)}
    settings = {key: value and [names[name] for name in value] for key, value in settings.items()}
    with pytest.raises(ConfigError, match=said):
        open_data(with_data(tiny, **settings))


def test_run_folder_holds_config_metrics_and_checkpoints(tiny, trained):
    assert {path.name for path in trained.iterdir()} - {"log.txt"} == {  # the first record makes the log
        *("LOCK", "README.md", "best", "checkpoints", "config.yaml", "metrics.jsonl", "run.json")
    }
    assert load_config(trained / "config.yaml") == prepare(tiny()).config
    assert [folder.name for folder in list_checkpoints(trained / "checkpoints")] == [
        f"step_{step:09}" for step in (5, 8, 10, 12)
    ]
    assert str((trained / "best").readlink()) == "checkpoints/step_000000012"


def test_run_training_returns_steps_tokens_and_metrics(tiny, tmp_path):
    result = run_training(tiny(), tmp_path / "run", resume=False)
    metrics = result.pop("metrics")
    assert result.pop("train_seconds") > 0
    assert result == {"steps": 12, "tokens": 12 * 4 * 32, "skipped_steps": 0}
    assert 0 < metrics["final/bits_per_byte"] < 8


def test_resume_of_a_finished_run_changes_nothing(tiny, trained_copy):
    before = (trained_copy / "metrics.jsonl").read_bytes()
    result = run_training(tiny(), trained_copy, resume=True)
    assert result["steps"] == 12
    assert (trained_copy / "metrics.jsonl").read_bytes() == before


def test_run_folder_with_a_run_is_not_overwritten(tiny, trained_copy):
    with pytest.raises(ConfigError, match="holds a run already .*--resume"):
        run_training(tiny(), trained_copy, resume=False)


def test_leftovers_of_a_killed_save_are_cleared_while_the_lock_is_held(tiny, tmp_path):
    best = tmp_path / "good"
    config = tiny().replaced(runtime={"evaluation": {"best": {"directory": best}}})
    for folder in (tmp_path / "run" / "checkpoints", best):
        (folder / ".tmp-step_000000001-abc").mkdir(parents=True)
        (folder / ".old-step_000000002-abc").mkdir()
    with hold_run(config, tmp_path / "run"):
        for folder in (tmp_path / "run" / "checkpoints", best):
            assert sorted(path.name for path in folder.iterdir()) == ["LOCK", "step_000000002"]
        with pytest.raises(CheckpointError, match="is in use by"), hold_run(config, tmp_path / "run"):
            pass


def test_refused_resume_keeps_the_config_of_the_run(tiny, trained_copy):
    before = (trained_copy / "config.yaml").read_bytes()
    with pytest.raises(ConfigError):
        run_training(tiny(optimizer={"algorithm": "adam_w"}), trained_copy, resume=True)
    assert (trained_copy / "config.yaml").read_bytes() == before


def test_impossible_settings_are_refused_before_text_is_prepared(tiny, tmp_path):
    own = {"cache_dir": str(tmp_path / "cache"), "global_batch_size": 6}
    with pytest.raises(ConfigError, match="6 is not a multiple of"):
        run_training(with_data(tiny, **own), tmp_path / "run", resume=False)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--override", "model.hidden_sizes=3"], 2),
        (["--override", "data.train_shards=[]"], 2),
        (["--init-from", "nowhere"], 3),
        (["--run-dir", "RUN"], 2),  # which holds a run
        (["--run-dir", "RUN", "--resume", "--override", "model.num_layers=3"], 2),
    ],
)
def test_config_and_data_errors_are_raised_before_torch_is_imported(
    config_file, tiny, trained, tmp_path, words, code
):
    words = ["train", "--config", config_file(tiny()), *(word.replace("RUN", str(trained)) for word in words)]
    program = f"import sys; from candlewick.cli.main import main; code = main({words!r})\n"
    program += "sys.exit(100 if 'torch' in sys.modules else code)"
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False).returncode == code


def test_checkpoint_folder_of_another_live_run_is_refused_and_its_save_is_kept(tiny, tmp_path):
    shared = tmp_path / "shared"
    config = tiny().replaced(runtime={"checkpoint": {"directory": shared}})
    with hold_run(config, tmp_path / "first"):
        (shared / ".tmp-step_000000001-abc").mkdir()
        with pytest.raises(CheckpointError, match=r"shared is in use by .*runtime\.checkpoint\.directory"):
            run_training(config, tmp_path / "second", resume=False)
        assert (shared / ".tmp-step_000000001-abc").is_dir()
    assert not (tmp_path / "second").exists()


def test_too_little_memory_for_the_plan_of_rows_is_one_line(tiny, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(complete, "RowOrder", fail)
    with pytest.raises(MachineError, match="not enough memory"):
        run_training(tiny(), tmp_path / "run", resume=False)


def test_log_of_a_run_has_what_its_start_told(tiny, trained_copy):
    (list_checkpoints(trained_copy / "checkpoints")[-1] / "model.safetensors").write_bytes(b"")
    run_training(tiny(), trained_copy, resume=True)
    assert "WARNING candlewick.checkpoint.open: checkpoint rejected: " in (trained_copy / "log.txt").read_text()


def test_run_has_one_id_through_its_resumes_and_another_run_a_different_one(tiny, tmp_path):
    def ids(run):
        folders = list_checkpoints(run / "checkpoints")
        return {read_manifest(folder).provenance["run"] for folder in folders} | {read_run_id(run / "config.yaml")}

    run_training(tiny(), tmp_path / "one", resume=False)
    first = ids(tmp_path / "one")
    run_training(tiny(scheduler={"total_steps": 14}), tmp_path / "one", resume=True)
    run_training(tiny(), tmp_path / "two", resume=False)
    assert len(first) == 1
    assert ids(tmp_path / "one") == first != ids(tmp_path / "two")


def test_run_does_not_go_on_from_the_checkpoints_of_another(tiny, tmp_path):
    for name in ("one", "two"):
        run_training(tiny(), tmp_path / name, resume=False)
    theirs = tiny().replaced(runtime={"checkpoint": {"directory": tmp_path / "one" / "checkpoints"}})
    before = [path.name for path in list_checkpoints(tmp_path / "one" / "checkpoints")]
    with pytest.raises(CheckpointError, match=r"belongs to run \w{12}, and is not one of run"):
        run_training(theirs.replaced(scheduler={"total_steps": 14}), tmp_path / "two", resume=True)
    assert [path.name for path in list_checkpoints(tmp_path / "one" / "checkpoints")] == before


def test_new_run_in_the_folder_of_one_that_saved_nothing_starts_clean(tiny, tmp_path, monkeypatch):
    config = tiny().replaced(runtime={"logging": {"tensorboard": True}})

    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Saver, "has_lower_loss", crash)
        run_training(config, tmp_path / "run", resume=False)
    dead = {path.name for path in (tmp_path / "run" / "tensorboard").iterdir()}
    run_training(config, tmp_path / "run", resume=False)
    assert dead
    assert not dead & {path.name for path in (tmp_path / "run" / "tensorboard").iterdir()}
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, 13))
