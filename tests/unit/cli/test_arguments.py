import argparse
import json
import logging
from pathlib import Path

import pytest

from candlewick.cli.arguments import (
    add_config,
    add_json,
    add_logging,
    add_output,
    print_json,
    read_config,
    setup_logging,
    whole_number,
)
from candlewick.config import LoggingConfig, RunConfig, RuntimeConfig
from candlewick.errors import ConfigError


@pytest.fixture
def parse():
    """Parse words with the shared arguments."""
    parser = argparse.ArgumentParser()
    add_config(parser, default="local")
    add_output(parser, "where it goes")
    add_json(parser)
    return lambda *words: parser.parse_args(["--output", "there", *words])


def test_what_verbs_share(parse):
    args = parse()
    assert (args.config, args.override, args.output, args.json) == ("local", [], Path("there"), False)
    args = parse("--config", "demo", "--override", "a=1", "--override", "b=2", "--json")
    assert (args.config, args.override, args.json) == ("demo", ["a=1", "b=2"], True)


def test_a_config_is_a_profile_with_overrides_the_later_over_the_earlier(parse):
    args = parse("--config", "demo", "--override", "runtime.seed=1", "--override", "runtime.seed=2")
    assert read_config(args).runtime.seed == 2
    assert read_config(args, ["runtime.seed=3"]).runtime.seed == 3
    with pytest.raises(ConfigError, match="unknown key"):
        read_config(parse("--override", "runtime.sed=1"))


def test_the_cache_is_this_users_unless_the_config_names_one(parse, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert read_config(parse()).data.cache_dir == tmp_path / "candlewick"
    override = f"data.cache_dir={tmp_path / 'mine'}"
    assert read_config(parse("--override", override)).data.cache_dir == tmp_path / "mine"


@pytest.mark.parametrize("text", ["3", "4", str((1 << 63) - 1)])
def test_a_whole_number_in_its_range(text):
    assert whole_number(3)(text) == int(text)


@pytest.mark.parametrize("text", ["2", "-3", "", "three", "3.0", " 4", str(1 << 63), "1e3", "²"])
def test_anything_else_is_no_such_number(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number from 3 on"):
        whole_number(3)(text)


def test_json_is_one_document_of_plain_text(capsys):
    print_json({"path": Path("a"), "text": "é"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"path": "a", "text": "é"}
    assert "é" in out
    assert out.endswith("}\n")


@pytest.mark.parametrize(
    ("words", "configured", "shown"),
    [
        ([], "info", "IWE"),
        ([], "error", "E"),
        (["-v"], "info", "DIWE"),
        (["--quiet"], "debug", "WE"),
    ],
)
def test_the_command_line_says_what_is_shown_else_the_config(words, configured, shown, capsys):
    parser = argparse.ArgumentParser()
    add_logging(parser)
    config = RunConfig(runtime=RuntimeConfig(logging=LoggingConfig(level=configured)))
    setup_logging(parser.parse_args(words), config)
    logger = logging.getLogger("candlewick.test")
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logger.log(level, "x")
    assert "".join(line[0] for line in capsys.readouterr().err.splitlines()) == shown


def test_a_verb_without_a_config_shows_from_info_on(capsys):
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
