import json
import tomllib

import pytest
import yaml

from candlewick.cli.main import main
from candlewick.config import RunConfig
from candlewick.config.load import load_config

READ = {"yaml": yaml.safe_load, "toml": tomllib.loads, "json": json.loads}


@pytest.mark.parametrize("form", READ)
def test_config_show_prints_all_settings_in_each_format(form, capsys):
    assert main(["config", "show", "--config", "demo", "--override", "model.num_layers=7", "--format", form]) == 0
    shown = READ[form](capsys.readouterr().out)
    assert shown.keys() == RunConfig.model_fields.keys()
    assert shown["model"]["num_layers"] == 7
    assert shown["tokenizer"]["vocab_size"] == load_config("demo").tokenizer.vocab_size


def test_config_show_prints_a_loadable_configuration(capsys, tmp_path):
    assert main(["config", "show", "--config", "m3_medium"]) == 0
    (tmp_path / "c.yaml").write_text(capsys.readouterr().out)
    assert load_config(tmp_path / "c.yaml") == load_config("m3_medium")


def test_config_show_prints_all_problems_in_one_line_and_exits_2(capsys, tmp_path):
    (tmp_path / "c.yaml").write_text("modle: {}\nmodel:\n  hidden_size: big\n")
    assert main(["config", "show", "--config", str(tmp_path / "c.yaml")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: 2 problems: ")
    assert "c.yaml:1: modle: unknown key, did you mean model?" in err
    assert 'c.yaml:3: model.hidden_size: should be a whole number (got "big")' in err


@pytest.mark.parametrize("words", [["config"], ["config", "hide"], ["config", "show", "--format", "xml"]])
def test_config_with_a_wrong_command_line_exits_2(words, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_config_show_accepts_json(capsys):
    assert main(["config", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["num_layers"] == 6


def test_config_show_origins_names_the_source_of_each_setting(capsys, tmp_path):
    (tmp_path / "base.toml").write_text("[model]\nnum_layers = 2\nhidden_size = 64\n")
    file = tmp_path / "c.yaml"
    file.write_text("extends: base.toml\nmodel:\n  num_layers: 3\n")
    words = ["config", "show", "--config", str(file), "--override", "data.mixture=[{shards: [a]}]", "--origins"]
    assert main(words) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["model.num_layers"].endswith(f"  3                         {file}:3")
    assert lines["model.hidden_size"].endswith(f"{tmp_path}/base.toml:3")
    assert lines["model.head_dim"].endswith("  default")
    assert lines["data.mixture"].endswith("  --override")
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model.num_layers"] == {"value": 3, "origin": f"{file}:3"}


def test_config_diff_lists_settings_that_differ(capsys, tmp_path):
    (tmp_path / "config.yaml").write_text(
        "extends: local\noptimizer: {algorithm: sgd}\nscheduler: {total_steps: 7}\n"
    )
    assert main(["config", "diff", "local", str(tmp_path)]) == 0  # a run folder
    lines = capsys.readouterr().out.splitlines()
    assert 'optimizer.algorithm: "adam_w" -> "sgd"' in lines
    assert "optimizer.nesterov: (no such setting) -> false" in lines
    assert not any(line.startswith("model.") for line in lines)
    assert main(["config", "diff", "local", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scheduler.total_steps"] == {"first": load_config("local").scheduler.total_steps, "second": 7}
    assert found["optimizer.nesterov"] == {"second": False}
    assert main(["config", "diff", "demo", "demo"]) == 0
    assert capsys.readouterr().out == ""


def test_config_schema_prints_the_json_schema(capsys):
    assert main(["config", "schema"]) == 0
    assert "extends" in json.loads(capsys.readouterr().out)["properties"]


def test_config_explain_describes_a_key_or_suggests_one(capsys):
    assert main(["config", "explain", "model.hidden_size"]) == 0
    assert "Width of the residual stream" in capsys.readouterr().out
    assert main(["config", "explain", "data.order"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("data.order\n  meaning  Shuffle rows")
    assert "  type     global, window\n" in out
    assert main(["config", "explain", "hidden_size", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["default"] == "384"
    assert main(["config", "explain", "hidden_sise"]) == 2
    assert "did you mean model.hidden_size" in capsys.readouterr().err


def test_config_plot_schedule_draws_or_prints_json(capsys):
    words = ["config", "plot-schedule", "--override", "scheduler.strategy=cosine", "--steps", "100"]
    assert main(words) == 0
    assert "by completed updates (cosine)" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total_steps"] == 100


def test_config_show_names_two_origins_of_a_list_changed_by_an_override(capsys, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("data:\n  mixture: [{shards: [a]}, {shards: [b]}]\n")
    words = ["config", "show", "--config", str(file), "--origins", "--override", "data.mixture[1].weight=3"]
    assert main([*words, "--override", "runtime.sample.prompts[0]=x"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["data.mixture"].endswith(f"  {file}:2, --override")
    assert (
        lines["runtime.sample.prompts"].endswith("]  --override")
        or " --override" in lines["runtime.sample.prompts"]
    )


def test_config_diff_shows_a_section_against_null_as_one_difference(capsys, tmp_path):
    (tmp_path / "a.yaml").write_text("runtime: {sample: null}\ndata: {validation_sets: {web: [a]}}\n")
    (tmp_path / "b.yaml").write_text("runtime: {sample: {top_k: 7}}\n")
    assert main(["config", "diff", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]) == 0
    web, sample = capsys.readouterr().out.splitlines()
    assert web == f'data.validation_sets.web: ["{tmp_path}/a"] -> (no such setting)'
    assert sample.startswith('runtime.sample: null -> {"prompts": [""], ')


def test_config_show_refuses_json_with_another_format(capsys):
    assert main(["config", "show", "--json", "--format", "toml"]) == 2
    assert "--json and --format toml" in capsys.readouterr().err
    assert main(["config", "show", "--json", "--format", "json"]) == 0


def test_config_explain_shows_the_value_in_a_configuration(capsys):
    assert main(["config", "explain", "model.num_layers", "--config", "demo"]) == 0
    assert "  source   profile demo:" in capsys.readouterr().out
