import json
import tomllib

import pytest
import yaml

from candlewick.cli.main import main
from candlewick.config import RunConfig
from candlewick.config_io import load_config

READ = {"yaml": yaml.safe_load, "toml": tomllib.loads, "json": json.loads}


@pytest.mark.parametrize("form", READ)
def test_every_setting_is_shown_in_each_format(form, capsys):
    assert main(["config", "show", "--config", "demo", "--override", "model.num_layers=7", "--format", form]) == 0
    shown = READ[form](capsys.readouterr().out)
    assert shown.keys() == RunConfig.model_fields.keys()
    assert shown["model"]["num_layers"] == 7
    assert shown["tokenizer"]["vocab_size"] == 1024


def test_what_is_shown_is_a_configuration(capsys, tmp_path):
    assert main(["config", "show", "--config", "m3_medium"]) == 0
    (tmp_path / "c.yaml").write_text(capsys.readouterr().out)
    assert load_config(tmp_path / "c.yaml") == load_config("m3_medium")


def test_all_problems_are_one_line_and_exit_2(capsys, tmp_path):
    (tmp_path / "c.yaml").write_text("modle: {}\nmodel:\n  hidden_size: big\n")
    assert main(["config", "show", "--config", str(tmp_path / "c.yaml")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: 2 problems: ")
    assert "c.yaml:1: modle: unknown key, did you mean model?" in err
    assert 'c.yaml:3: model.hidden_size: should be a whole number (got "big")' in err


@pytest.mark.parametrize("words", [["config"], ["config", "hide"], ["config", "show", "--format", "xml"]])
def test_a_wrong_command_line_is_exit_2(words, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_json_has_the_flag_that_it_has_everywhere(capsys):
    assert main(["config", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["num_layers"] == 6
