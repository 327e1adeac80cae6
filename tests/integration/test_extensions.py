"""Extensions registered as ARCHITECTURE.md says reach every other part; a forgotten registration fails a test.

Each probe adds something in this process: a setting of the model, a schedule, an optimizer, a figure.
"""

import importlib
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args

import pytest
import torch
from jsonschema import Draft202012Validator
from pydantic import Discriminator, Field, Tag
from pydantic.fields import FieldInfo
from tests.prepared import newest_checkpoint
from tests.test_architecture_table import places, rows
from transformers import AutoModelForCausalLM

from candlewick.checkpoint import huggingface
from candlewick.checkpoint.load import load_for_inference
from candlewick.checkpoint.open import Checkpoint
from candlewick.checkpoint.safetensors import MODEL, read_tensors
from candlewick.cli.main import build_parser
from candlewick.cli.orchestrate import flag_overrides
from candlewick.config import LionConfig, ModelConfig, MuonConfig, RunConfig, SchedulerConfig, Section
from candlewick.config.keys import key_types
from candlewick.config.load import load_config, load_with_origins
from candlewick.config.schema import json_schema
from candlewick.errors import ConfigError
from candlewick.model.norm import RMSNorm
from candlewick.model.transformer import Transformer
from candlewick.optim import groups
from candlewick.optim.build import OPTIMIZERS
from candlewick.optim.elementwise import Lion
from candlewick.optim.schedule import SCHEDULES, Schedule
from candlewick.runs.report.explain import explain
from candlewick.runs.train import run_training
from candlewick.train.monitor.telemetry import Telemetry
from candlewick.train.monitor.trackers import METRICS, metric_of, read_metrics

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def setting(section: type[Section], name: str, annotation: Any, default: object, text: str) -> Iterator[None]:
    """Give a section a setting, or one that is there another type; take it back afterwards."""
    before = dict(section.model_fields)
    info = FieldInfo.from_annotated_attribute(annotation, default)
    info.description = text
    try:
        section.model_fields[name] = info
        _rebuild(section)
        yield
    finally:
        section.model_fields.clear()
        section.model_fields.update(before)
        _rebuild(section)


def _rebuild(section: type[Section]) -> None:
    section.model_rebuild(force=True)
    RunConfig.model_rebuild(force=True)
    key_types.cache_clear()


@contextmanager
def logit_scale(monkeypatch, *, is_listed: bool = True) -> Iterator[None]:
    hidden = Transformer.hidden
    monkeypatch.setattr(
        Transformer, "hidden", lambda model, *args, **how: hidden(model, *args, **how) * model.config.logit_scale
    )
    if is_listed:
        own = huggingface._one_of(1.0)
        monkeypatch.setitem(huggingface.EXPRESSIBLE, "logit_scale", (own,) * 4)
    with setting(ModelConfig, "logit_scale", Annotated[float, Field(gt=0)], 1.0, "Multiplies all logits."):
        yield


@contextmanager
def halving(monkeypatch, *, is_listed: bool = True) -> Iterator[None]:
    names = (*get_args(SchedulerConfig.model_fields["strategy"].annotation), "halving")
    if is_listed:
        monkeypatch.setitem(SCHEDULES, "halving", Schedule(lambda _config, _x, step, _total: 0.5**step))
    with setting(SchedulerConfig, "strategy", Literal[names], "wsd", "halving: half of it at every update."):
        yield


class SignConfig(LionConfig):
    """Lion, by another name."""

    algorithm: Literal["sign"] = "sign"
    boost: float = 1.0
    """Nothing at all."""


class Sign(Lion):
    state_name = "sign_buffer"


@contextmanager
def sign(monkeypatch, *, is_listed: bool = True) -> Iterator[None]:
    info = RunConfig.model_fields["optimizer"]
    (by_algorithm,) = (part for part in info.metadata if isinstance(part, Discriminator))
    kinds = Union[(*get_args(info.annotation), Annotated[SignConfig, Tag("sign")])]
    if is_listed:
        monkeypatch.setitem(OPTIMIZERS, SignConfig, Sign)
    with setting(RunConfig, "optimizer", Annotated[kinds, by_algorithm], MuonConfig(), ""):
        yield


@dataclass(frozen=True)
class Probe:
    """Something that is added, with what a user would write for it."""

    register: Callable[..., AbstractContextManager[None]]
    row: str
    files: set[str]
    """What `register` changes; all that the row of ARCHITECTURE.md names, but for files of its own."""
    key: str
    tree: dict
    """A value of it in a configuration."""
    other: dict
    wrong: str
    explained: str
    model_type: str
    forgotten: tuple[str, str]
    """Module and name of the test that fails by name when the table is forgotten."""

    def overrides(self) -> list[str]:
        return [f"{s}.{name}={value}" for s, values in self.tree.items() for name, value in values.items()]

    def name(self) -> str:
        return self.register.__name__


PROBES = [
    Probe(
        logit_scale,
        "add a setting of the model",
        {
            "config/model.py: ModelConfig",
            "model/transformer.py: Block",
            "model/transformer.py: Decoder",
            "model/transformer.py: Transformer",
            "checkpoint/huggingface.py: EXPRESSIBLE",
        },
        "model.logit_scale",
        {"model": {"logit_scale": 2.0}},
        {"model": {"logit_scale": 3.0}},
        "model.logit_scale=-1.0",
        "Multiplies all logits.",
        "candlewick",
        ("tests.unit.checkpoint.test_huggingface", "test_every_field_of_the_model_is_listed_by_name"),
    ),
    Probe(
        halving,
        "add a learning-rate schedule",
        {"config/optimizer.py: SchedulerConfig", "optim/schedule.py: SCHEDULES"},
        "scheduler.strategy",
        {"scheduler": {"strategy": "halving"}},
        {"scheduler": {"strategy": "constant"}},
        "scheduler.strategy=halfing",
        "halving: half of it at every update.",
        "qwen3",
        ("tests.unit.optim.test_schedule", "test_every_strategy_has_a_schedule"),
    ),
    Probe(
        sign,
        "add an optimizer",
        {"config/optimizer.py: OptimizerConfig", "optim/build.py: OPTIMIZERS"},
        "optimizer.boost",
        {"optimizer": {"algorithm": "sign", "boost": 2.0}},
        {"optimizer": {"algorithm": "lion"}},
        "optimizer.algorithm=signs",
        "Nothing at all.",
        "qwen3",
        ("tests.unit.optim.test_build", "test_every_optimizer_config_has_an_optimizer"),
    ),
]


@pytest.fixture(params=PROBES, ids=Probe.name)
def probe(request, monkeypatch):
    with request.param.register(monkeypatch):
        yield request.param


@pytest.fixture
def generate(monkeypatch):
    """docs/generate.py as a module; its `check` returns what is out of date."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    return module


def settings_of(tiny, tree: dict) -> RunConfig:
    """A tiny run of four updates with a checkpoint after each second one."""
    runtime = {"sample": None, "checkpoint": {"every_n_steps": 2}, "evaluation": {"max_tokens": 128}}
    base = {
        "scheduler": {"total_steps": 4, "warmup_steps": 0},
        "runtime": tiny().runtime.model_dump(mode="json") | runtime,
    }
    return tiny(**{name: {**base.get(name, {}), **tree.get(name, {})} for name in base.keys() | tree.keys()})


@pytest.mark.parametrize("probe", PROBES, ids=Probe.name)
def test_probe_adds_to_the_files_of_its_architecture_row(probe):
    named = {place for place in places(rows()[probe.row]) if not place.endswith("/")}
    assert probe.files == named


@pytest.mark.parametrize("probe", PROBES, ids=Probe.name)
def test_probe_setting_is_refused_without_the_probe(probe):
    with pytest.raises(ConfigError, match=r"unknown key|should be|key of another"):
        load_config(None, probe.overrides())


def test_an_added_setting_is_read_from_overrides_and_a_wrong_value_refused(probe):
    config = load_config(None, probe.overrides())
    section, _, name = probe.key.partition(".")
    assert getattr(getattr(config, section), name) == probe.tree[section][name]
    with pytest.raises(ConfigError, match=probe.wrong.partition("=")[0]):
        load_config(None, [*probe.overrides(), probe.wrong])


def test_an_added_setting_is_explained(probe):
    section, _, name = probe.key.partition(".")
    entries = explain(probe.key, *load_with_origins(None, probe.overrides()))
    entry = next(entry for entry in entries if "value" in entry)
    assert (entry["meaning"], entry["source"]) == (probe.explained, "--override")
    assert entry["value"] == json.dumps(probe.tree[section][name])


def test_an_added_setting_is_in_the_schema_and_makes_the_pages_stale(probe, generate, capsys):
    validator = Draft202012Validator(json_schema())
    assert validator.is_valid(probe.tree)
    assert validator.is_valid(probe.other)
    section, _, name = probe.wrong.partition("=")[0].partition(".")
    assert not validator.is_valid({section: {name: probe.wrong.partition("=")[2]}})
    assert probe.explained in generate.config_page()
    assert generate.main() == 1
    assert "docs/config.md, docs/config.schema.json" in capsys.readouterr().err


def test_an_added_setting_changes_a_run_that_resumes_with_the_same_bits(probe, tiny, tmp_path):
    config = settings_of(tiny, probe.tree)
    run_training(settings_of(tiny, {}), tmp_path / "plain", resume=False)
    run_training(config, tmp_path / "run", resume=False)
    last = newest_checkpoint(tmp_path / "run" / "checkpoints")
    weights = read_tensors(last / MODEL)
    plain = read_tensors(newest_checkpoint(tmp_path / "plain" / "checkpoints") / MODEL)
    assert any(not torch.equal(weights[name], plain[name]) for name in weights)
    section, _, name = probe.key.partition(".")
    assert Checkpoint(last, None).state["config"][section][name] == probe.tree[section][name]

    shutil.rmtree(last)
    run_training(load_config(tmp_path / "run"), tmp_path / "run", resume=True)
    resumed = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert resumed == last
    assert all(torch.equal(tensor, weights[name]) for name, tensor in read_tensors(resumed / MODEL).items())


def test_changed_value_of_an_added_setting_has_the_rule_of_its_section_on_a_resume(probe, tiny, tmp_path, caplog):
    run_training(settings_of(tiny, probe.tree), tmp_path / "run", resume=False)
    other = settings_of(tiny, probe.other)
    if probe.register is halving:  # a run may go on with another learning rate
        run_training(other, tmp_path / "run", resume=True)
        assert f"the run goes on with another {probe.key} (was " in caplog.text
    else:
        with pytest.raises(ConfigError, match=f"written with other settings: .*{probe.key.partition('.')[0]}"):
            run_training(other, tmp_path / "run", resume=True)


def test_an_added_setting_is_exported_or_refused(probe, tiny, tmp_path):
    run_training(settings_of(tiny, probe.tree), tmp_path / "run", resume=False)
    folder = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert json.loads((folder / "config.json").read_text())["model_type"] == probe.model_type
    ours, _ = load_for_inference(folder, torch.device("cpu"))
    tokens = torch.randint(300, (2, 16), generator=torch.Generator().manual_seed(0))
    if probe.model_type == "candlewick":
        with pytest.raises(ValueError, match="model type `candlewick`"):
            AutoModelForCausalLM.from_pretrained(folder)
        config: Any = ours.config
        assert config.logit_scale == 2.0
        return
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        expected, found = theirs(tokens).logits, ours(tokens)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("probe", PROBES, ids=Probe.name)
def test_forgotten_table_row_fails_the_named_test(probe, monkeypatch):
    module, name = probe.forgotten
    test = getattr(importlib.import_module(module), name)
    test()
    with (
        probe.register(monkeypatch, is_listed=False),
        pytest.raises(AssertionError, match=rf"{probe.name()}|Sign"),
    ):
        test()


def test_unlisted_model_setting_is_never_saved_as_another_class(monkeypatch):
    with logit_scale(monkeypatch, is_listed=False):
        assert (
            huggingface.model_type(ModelConfig())
            == huggingface.model_type(ModelConfig.model_validate({"logit_scale": 2.0}))
            == "candlewick"
        )
    with logit_scale(monkeypatch):
        assert huggingface.model_type(ModelConfig()) == "qwen3"


def test_an_added_schedule_is_a_flag_of_orchestrate(monkeypatch):
    words = ["orchestrate", "--schedule", "halving"]
    with pytest.raises(SystemExit):
        build_parser("orchestrate").parse_args(words)
    with halving(monkeypatch):
        args = build_parser("orchestrate").parse_args(words)
        assert 'scheduler.strategy="halving"' in flag_overrides(args)


def test_an_added_parameter_needs_an_initial_value_and_a_role(tiny, tmp_path, monkeypatch):
    init = Transformer.__init__

    def with_norm(model, config, vocab_size):
        init(model, config, vocab_size)
        model.model.embed_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    monkeypatch.setattr(Transformer, "__init__", with_norm)
    name = "'model.embed_norm.weight'"
    with pytest.raises(ValueError, match=f"{name} matches 0 rows of the initialization table"):
        run_training(settings_of(tiny, {}), tmp_path / "first", resume=False)
    initialize = importlib.import_module("candlewick.model.initialize")
    monkeypatch.setitem(initialize.INITIALIZERS, r"model\.embed_norm\.weight", lambda tensor, _: tensor.fill_(1.0))
    with pytest.raises(ValueError, match=f"{name} matches 0 rows of the table of roles"):
        run_training(settings_of(tiny, {}), tmp_path / "second", resume=False)
    monkeypatch.setitem(groups.ROLES, r"model\.embed_norm\.weight", "vector")
    counts = importlib.import_module("tests.unit.model.test_flops")
    with pytest.raises(AssertionError):
        counts.test_model_size_counts_the_parameters_of_every_variant("rope_theta")


def test_an_added_figure_is_logged_and_documented_or_refused(tiny, tmp_path, monkeypatch, generate, capsys):
    row = Telemetry.row
    monkeypatch.setattr(Telemetry, "row", lambda *args, **how: row(*args, **how) | {"perf/watts": 7.0})
    with pytest.raises(ValueError, match="not in METRICS .*: perf/watts"):
        run_training(settings_of(tiny, {}), tmp_path / "refused", resume=False)
    monkeypatch.setitem(METRICS, "perf/watts", "power of the device")
    run_training(settings_of(tiny, {}), tmp_path / "run", resume=False)
    logged = [row["perf/watts"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "perf/watts" in row]
    assert logged == [7.0] * 4
    assert "| `perf/watts` | power of the device |" in generate.metrics_page()
    assert generate.main() == 1
    assert "docs/metrics.md" in capsys.readouterr().err


def test_every_figure_of_the_table_is_logged_by_a_run(tiny, text_dir, tmp_path):
    config = tiny(
        scheduler={"total_steps": 2, "warmup_steps": 0},
        data={"validation_sets": {"web": [str(text_dir)]}},
        runtime={"precision": "fp16", "logging": {"statistics_every_n_steps": 1, "enable_stdout": False}},
    )
    run_training(config, tmp_path / "run", resume=False)
    logged = {name for row in read_metrics(tmp_path / "run" / "metrics.jsonl") for name in row}
    logged = {metric_of(name) for name in logged if name != "step" and not name.startswith("sample/")}
    assert logged == METRICS.keys(), "train/monitor/trackers.py: METRICS has a figure that no run logs"
