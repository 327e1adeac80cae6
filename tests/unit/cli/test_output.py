"""What a person or a program reads on standard output."""

import argparse
import json
from pathlib import Path

import pytest

from candlewick.cli.output import emit_json, escape_for_terminal, format_side, print_json, print_note


def test_json_is_one_document_of_plain_text(capsys):
    print_json({"path": Path("a"), "text": "é"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"path": "a", "text": "é"}
    assert "é" in out
    assert out.endswith("}\n")


def test_a_result_is_written_as_json_only_when_that_is_asked_for(capsys):
    assert not emit_json(argparse.Namespace(json=False), {"a": 1})
    assert capsys.readouterr().out == ""
    assert emit_json(argparse.Namespace(json=True), {"a": 1})
    assert json.loads(capsys.readouterr().out) == {"a": 1}


@pytest.mark.parametrize(("is_terminal", "said"), [(True, "\u241b[2J"), (False, "\x1b[2J")])
def test_a_terminal_gets_no_commands_and_a_file_the_text_as_it_is(is_terminal, said, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal, raising=False)
    assert escape_for_terminal("\x1b[2J") == said


def test_notes_go_to_standard_error_and_a_missing_setting_is_named(capsys):
    print_note("a is read as b")
    assert capsys.readouterr() == ("", "note: a is read as b\n")
    assert format_side({"first": None}, "first") == "null"
    assert format_side({"first": None}, "second") == "(no such setting)"
