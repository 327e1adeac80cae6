import hashlib
import json
import shutil
from dataclasses import replace

import pytest
import torch
from tests.prepared import edit_manifest, newest_checkpoint

from candlewick.artifacts.manifest import read_manifest
from candlewick.checkpoint.layout import list_checkpoints
from candlewick.config import ModelConfig
from candlewick.config.load import load_config
from candlewick.errors import ConfigError, RunDiverged
from candlewick.runs import orchestrate as runner
from candlewick.runs.complete import train_prepared
from candlewick.runs.orchestrate import orchestrate
from candlewick.runs.train import run_training
from candlewick.train.monitor.trackers import read_metrics

STAGES = ["tokenizer", "tokens", "training", "evaluation", "samples"]


class Said(list[str]):
    """The lines that were said."""

    def __call__(self, line: str) -> None:
        self.append(line)

    def made(self) -> list[str]:
        return [line.split()[0] for line in self if " made: " in line]

    def reused(self) -> list[str]:
        return [line.split()[0] for line in self if " reused, up to date: " in line]


@pytest.fixture
def run_dir(orchestrated, tmp_path):
    """A copy of a run folder of the whole path, to change; it lies elsewhere, so its training is another one."""
    return shutil.copytree(orchestrated, tmp_path / "run")


def edited(tiny, **runtime):
    """`tiny()` with other runtime settings."""
    return tiny(runtime={**tiny().runtime.model_dump(mode="json"), **runtime})


def test_orchestrate_stage_artifacts_have_the_earlier_ones_as_inputs(orchestrated):
    folders = {name: orchestrated / name for name in ("tokenizer", "tokens", "result", "evaluation", "samples")}
    manifests = {name: read_manifest(folder) for name, folder in folders.items()}
    checkpoint = newest_checkpoint(orchestrated / "checkpoints")
    assert checkpoint.name == "step_000000012"
    assert manifests["result"].inputs == {"tokens": manifests["tokens"].id}
    assert manifests["evaluation"].inputs["checkpoint"] == read_manifest(checkpoint).id
    assert manifests["samples"].inputs == {"checkpoint": read_manifest(checkpoint).id}
    result = json.loads((orchestrated / "result" / "result.json").read_bytes())
    metrics = json.loads((orchestrated / "evaluation" / "metrics.json").read_bytes())
    assert (result["steps"], result["checkpoint"]) == (12, checkpoint.name)
    # what was computed from memory and what was read back from the disk are the same
    assert metrics["eval/tokens"] == result["metrics"]["final/tokens"]
    assert metrics["eval/loss"] == pytest.approx(result["metrics"]["final/loss"], rel=1e-6)


def test_orchestrate_repeated_reuses_every_stage(tiny, orchestrated):
    files = {path: path.stat().st_mtime_ns for path in orchestrated.rglob("*") if path.is_file()}
    said = Said()
    result = orchestrate(tiny(), orchestrated, said)
    assert said.reused() == STAGES
    assert said.made() == []
    assert said[-1] == f"report     written: {orchestrated / 'report.html'}"
    changed = [p.name for p, time in files.items() if p.stat().st_mtime_ns != time]
    assert sorted(changed) == [
        *["LOCK"] * 2,
        "report.html",
        "special_tokens.txt",
        "training.toml",
        "training.yaml",
    ]
    assert result["samples"][0]["prompt"] == ""
    assert 0 < result["metrics"]["eval/bits_per_byte"] < 8


def test_orchestrate_makes_missing_or_damaged_stages_again(tiny, orchestrated, tmp_path):
    said = Said()
    first = orchestrate(tiny(), tmp_path / "run", said)
    assert said.made() == STAGES
    shutil.rmtree(tmp_path / "run" / "samples")
    (tmp_path / "run" / "evaluation" / "metrics.json").write_text("{}")
    said = Said()
    assert orchestrate(tiny(), tmp_path / "run", said) == first
    assert said.made() == ["evaluation", "samples"]
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    said = Said()
    again = orchestrate(tiny(), tmp_path / "run", said)
    assert said.made() == ["training", "evaluation", "samples"]
    assert again == first


def test_written_yaml_and_toml_configs_train_the_same(orchestrated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yaml, toml = (load_config(orchestrated / f"training.{kind}") for kind in ("yaml", "toml"))
    assert yaml == toml
    run_training(yaml, tmp_path / "again", resume=False)
    newest = [newest_checkpoint(run / "checkpoints") for run in (orchestrated, tmp_path / "again")]
    hashes = [{entry.name: entry.sha256 for entry in read_manifest(folder).files} for folder in newest]
    assert hashes[0]["model.safetensors"] == hashes[1]["model.safetensors"]


def test_orchestrate_continues_a_stopped_run(tiny, orchestrated, tmp_path, monkeypatch):
    def stopped(prepared):
        monkeypatch.undo()
        config = prepared.config
        train_prepared(replace(prepared, config=config.replaced(scheduler={"total_steps": 5})))
        state = newest_checkpoint(prepared.run_dir / "checkpoints") / "training/state.json"
        # a run of the whole config that was stopped after five steps
        content = json.loads(state.read_bytes())
        content["config"] = config.model_dump(mode="json")
        rewrite(state, content)
        raise RunDiverged("stopped", "go on")

    monkeypatch.setattr(runner, "train_prepared", stopped)
    with pytest.raises(RunDiverged):
        orchestrate(tiny(), tmp_path / "run", Said())
    said = Said()
    result = orchestrate(tiny(), tmp_path / "run", said)
    assert said.reused() == STAGES[:2]
    assert said.made() == STAGES[2:]
    assert result["metrics"]["eval/loss"] > 0
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows if "train/loss" in row] == list(range(1, 13))


def rewrite(state, content) -> None:
    """Change a checkpoint's state and its manifest with it."""
    state.write_text(json.dumps(content))
    data = state.read_bytes()

    def change(manifest):
        (entry,) = (entry for entry in manifest["files"] if entry["name"] == "training/state.json")
        entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    edit_manifest(state.parents[1], change)


def test_orchestrate_refuses_other_settings_in_the_same_folder(tiny, run_dir):
    with pytest.raises(ConfigError, match=r"other settings: .*runtime\.seed \(was 42, is 7\).*another --run-dir"):
        orchestrate(edited(tiny, seed=7), run_dir, Said())
    assert len(list_checkpoints(run_dir / "checkpoints")) == 4


def test_orchestrate_with_a_configured_tokenizer_trains_none(tiny, orchestrated, tmp_path):
    given = tmp_path / "mine.json"
    shutil.copy(orchestrated / "tokenizer" / "tokenizer.json", given)
    said = Said()
    config = tiny(tokenizer={"tokenizer_json": str(given)}, scheduler={"total_steps": 2, "warmup_steps": 1})
    orchestrate(config, tmp_path / "run", said)
    assert said[0] == f"tokenizer  given: {given}"
    assert not (tmp_path / "run" / "tokenizer").exists()
    assert read_manifest(tmp_path / "run" / "tokens").id == read_manifest(orchestrated / "tokens").id


def test_orchestrate_allows_another_checkpoint_folder_and_no_samples(tiny, tmp_path):
    checkpoint = {"directory": str(tmp_path / "elsewhere"), "every_n_steps": 5, "max_keep": 2}
    config = edited(tiny, checkpoint=checkpoint, sample=None)
    for made in (["tokenizer", "tokens", "training", "evaluation"], []):
        said = Said()
        assert orchestrate(config, tmp_path / "run", said)["samples"] == []
        assert said.made() == made
    assert len(list_checkpoints(tmp_path / "elsewhere")) == 3


def test_orchestrate_writes_mixture_and_validation_tokens_side_by_side(tiny, text_dir, tmp_path):
    mixture = [{"shards": [str(text_dir / f"{i:02}.txt")], "weight": i + 1} for i in range(2)]
    sides = {"train_shards": [], "mixture": mixture, "validation_shards": [str(text_dir / "05.txt")]}
    config = tiny(data={**tiny().data.model_dump(mode="json"), **sides}, scheduler={"total_steps": 2})
    for made in (["tokenizer", "tokens_0", "tokens_1", "validation", *STAGES[2:]], []):
        said = Said()
        result = orchestrate(config, tmp_path / "run", said)
        assert said.made() == made
    assert list(result["tokens"]) == ["tokens_0", "tokens_1", "validation"]
    held = read_manifest(tmp_path / "run" / "validation").details["splits"]["validation"]
    assert result["metrics"]["eval/tokens"] == held["tokens"]


def test_orchestrate_with_init_from_resumes_without_the_parent(tiny, trained_copy, text_dir, tmp_path):
    config = tiny(scheduler={"total_steps": 2}, runtime={"checkpoint": {"init_from": str(trained_copy)}})
    config = config.replaced(model=ModelConfig())
    said = Said()
    orchestrate(config, tmp_path / "run", said)
    assert said[0].startswith("tokenizer  given: ")
    parent = {"parent": read_manifest(newest_checkpoint(trained_copy / "checkpoints")).id}
    for folder in (tmp_path / "run" / "result", newest_checkpoint(tmp_path / "run" / "checkpoints")):
        assert parent.items() <= read_manifest(folder).inputs.items()
    shutil.rmtree(trained_copy)
    said = Said()
    orchestrate(config, tmp_path / "run", said)
    assert said.made() == []


def test_orchestrate_without_text_is_refused(tiny, tmp_path):
    config = tiny().replaced(data={"train_shards": ()})
    with pytest.raises(ConfigError, match="no text to train on .*--input"):
        orchestrate(config, tmp_path, Said())


def test_orchestrate_repeated_keeps_the_tokenizer_that_it_trained(tiny, orchestrated):
    before, lines = (orchestrated / "tokenizer" / "manifest.json").read_bytes(), list[str]()
    orchestrate(tiny(), orchestrated, lines.append)
    assert (orchestrated / "tokenizer" / "manifest.json").read_bytes() == before
    assert f"reused, up to date: {orchestrated / 'tokenizer'}" in lines[0]


def test_orchestrate_that_is_refused_leaves_no_folder(tiny, tmp_path):
    with pytest.raises(ConfigError, match="no text to train on"):
        orchestrate(tiny(data={"train_shards": []}), tmp_path / "run", print)
    assert not (tmp_path / "run").exists()


def test_orchestrate_evaluates_with_the_settings_of_torch_without_training(tiny, orchestrated, monkeypatch):
    configured = list[object]()
    monkeypatch.setattr(runner, "configure_torch", lambda *given: configured.append(given))
    orchestrate(tiny(), orchestrated, lambda _: None)
    assert configured == [(tiny().runtime, torch.device("cpu"))]


def test_orchestrate_with_more_steps_goes_on_from_the_finished_run(tiny, tmp_path):
    orchestrate(tiny(), tmp_path / "run", Said())
    said = Said()
    orchestrate(tiny(scheduler={"total_steps": 14, "warmup_steps": 2}), tmp_path / "run", said)
    assert said.reused() == STAGES[:2]
    assert said.made() == STAGES[2:]
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, 15))


def test_orchestrate_with_other_validation_text_is_refused_before_the_tokens_are_made_anew(
    tiny, orchestrated, text_dir
):
    before = {path: path.read_bytes() for path in orchestrated.rglob("*.*") if path.is_file()}
    data = {**tiny().data.model_dump(mode="json"), "validation_shards": [str(text_dir / "03.txt")]}
    with pytest.raises(ConfigError, match="on other text, or on text that was prepared otherwise"):
        orchestrate(tiny(data=data), orchestrated, Said())
    now = {
        path: path.read_bytes() for path in orchestrated.rglob("*.*") if path.is_file() and path.name != "log.txt"
    }
    assert now == {path: content for path, content in before.items() if path.name != "log.txt"}
