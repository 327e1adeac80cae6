import argparse
import io
import logging
from pathlib import Path
from typing import Any

import pytest

from candlewick.cli.arguments import (
    add_action,
    add_checkpoint,
    add_choice,
    add_config,
    add_count,
    add_json,
    add_logging,
    add_output,
    add_reporting,
    add_sources,
    load_from_arguments,
    load_run_config,
    setup_logging,
    whole_number,
)
from candlewick.config import LoggingConfig, RunConfig, RuntimeConfig
from candlewick.errors import ConfigError


@pytest.fixture
def parse():
    """Parse words with the shared arguments."""
    parser = argparse.ArgumentParser()
    add_config(parser)
    parser.set_defaults(config="local")
    add_output(parser, "where it goes")
    add_json(parser)
    return lambda *words: parser.parse_args(["--output", "there", *words])


def test_shared_options_have_defaults_and_are_parsed(parse):
    args = parse()
    assert (args.config, args.override, args.output, args.json) == ("local", [], Path("there"), False)
    args = parse("--config", "demo", "--override", "a=1", "--override", "b=2", "--json")
    assert (args.config, args.override, args.json) == ("demo", ["a=1", "b=2"], True)


def test_later_override_of_a_profile_wins(parse):
    args = parse("--config", "demo", "--override", "runtime.seed=1", "--override", "runtime.seed=2")
    assert load_run_config(args).runtime.seed == 2
    assert load_run_config(args, ["runtime.seed=3"]).runtime.seed == 3
    with pytest.raises(ConfigError, match="unknown key"):
        load_run_config(parse("--override", "runtime.sed=1"))


def test_cache_dir_defaults_to_the_cache_folder_of_the_user(parse, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert load_run_config(parse()).data.cache_dir == tmp_path / "candlewick"
    override = f"data.cache_dir={tmp_path / 'mine'}"
    assert load_run_config(parse("--override", override)).data.cache_dir == tmp_path / "mine"


@pytest.mark.parametrize("text", ["3", "4", str((1 << 63) - 1)])
def test_integer_option_accepts_values_from_its_minimum(text):
    assert whole_number(3)(text) == int(text)


@pytest.mark.parametrize("text", ["2", "-3", "", "three", "3.0", " 4", str(1 << 63), "1e3", "²"])
def test_integer_option_refuses_other_text(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number from 3 on"):
        whole_number(3)(text)


@pytest.mark.parametrize(
    ("words", "configured", "shown"),
    [
        ([], "info", "IWE"),
        ([], "error", "E"),
        (["-v"], "info", "DIWE"),
        (["--quiet"], "debug", "WE"),
    ],
)
def test_log_level_comes_from_the_command_line_before_the_config(words, configured, shown, capsys):
    parser = argparse.ArgumentParser()
    add_logging(parser)
    config = RunConfig(runtime=RuntimeConfig(logging=LoggingConfig(level=configured)))
    setup_logging(parser.parse_args(words), config)
    logger = logging.getLogger("candlewick.test")
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logger.log(level, "x")
    assert "".join(line[0] for line in capsys.readouterr().err.splitlines()) == shown


def test_log_level_without_a_config_is_info(capsys):
    parser = argparse.ArgumentParser()
    add_logging(parser)
    setup_logging(parser.parse_args([]))
    logging.getLogger("candlewick").debug("x")
    logging.getLogger("candlewick").info("y")
    assert capsys.readouterr().err == "INFO candlewick: y\n"


def test_verbose_and_quiet_exclude_each_other(capsys):
    parser = argparse.ArgumentParser()
    add_logging(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["-v", "-q"])


def test_output_is_required_unless_it_has_a_default(capsys):
    parser = argparse.ArgumentParser()
    add_output(parser, "where it goes", default=Path("here"))
    assert parser.parse_args([]).output == Path("here")
    parser = argparse.ArgumentParser()
    add_output(parser, "where it goes")
    with pytest.raises(SystemExit):
        parser.parse_args([])


def test_add_action_binds_the_function_of_the_action():
    parser = argparse.ArgumentParser()
    actions = parser.add_subparsers()
    functions: tuple[Any, ...] = (print, repr)
    for action in functions:
        add_logging(add_action(actions, action.__name__, action, "does something"))
    args = parser.parse_args(["repr", "--json", "--quiet"])
    assert (args.run, args.json, args.log_level) == (repr, True, "warning")


def test_help_shows_the_defaults_of_choices_and_counts():
    parser = argparse.ArgumentParser()
    add_choice(parser, "--format", ("jsonl", "text"), "as lines")
    add_count(parser, "--lines", "per shard", default=200_000)
    add_count(parser, "--take", "at most", least=0)
    args = parser.parse_args(["--take", "0"])
    assert (args.format, args.lines, args.take) == ("jsonl", 200_000, 0)
    assert "per shard; default 200,000" in parser.format_help()
    assert "at most\n" in parser.format_help()


def test_add_checkpoint_adds_a_device_option(capsys):
    parser = argparse.ArgumentParser()
    add_checkpoint(parser)
    assert vars(parser.parse_args(["runs/x"])) == {"checkpoint": "runs/x", "device": "auto"}
    with pytest.raises(SystemExit):
        parser.parse_args(["runs/x", "--device", "tpu"])


def test_sources_replace_the_training_text_of_a_config_in_another_folder(parse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mix.yaml").write_text("data: {mixture: [{shards: [a]}, {shards: [b]}]}\n")
    parser = argparse.ArgumentParser()
    add_sources(parser)
    add_config(parser)
    add_reporting(parser)
    data = load_from_arguments(parser.parse_args(["--config", "configs/mix.yaml", "é.txt", "stdlib://"])).data
    assert (data.train_shards, data.mixture) == ((str(tmp_path / "é.txt"), "stdlib://"), ())
    assert len(load_from_arguments(parser.parse_args(["--config", "configs/mix.yaml"])).data.mixture) == 2


@pytest.mark.parametrize("words", [["-"], ["--override", "data.train_shards=[-]"]])
def test_standard_input_is_a_source_that_can_be_read_again(words, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"piped text")))
    parser = argparse.ArgumentParser()
    add_sources(parser)
    add_config(parser)
    config = load_from_arguments(parser.parse_args([*words, "--override", f"data.cache_dir={tmp_path}"]))
    (source,) = config.data.train_shards
    assert Path(source).parent == tmp_path / "stdin"
    assert Path(source).read_bytes() == b"piped text"
