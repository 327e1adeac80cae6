"""Standard output for people and for programs."""

import argparse
import json
from pathlib import Path

import pytest

from candlewick.cli.output import emit_json, escape_for_terminal, format_side, print_json, print_note


def test_print_json_writes_one_document_of_readable_text(capsys):
    print_json({"path": Path("a"), "text": "é"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"path": "a", "text": "é"}
    assert "é" in out
    assert out.endswith("}\n")


def test_result_is_written_as_json_only_with_the_option(capsys):
    assert not emit_json(argparse.Namespace(json=False), {"a": 1})
    assert capsys.readouterr().out == ""
    assert emit_json(argparse.Namespace(json=True), {"a": 1})
    assert json.loads(capsys.readouterr().out) == {"a": 1}


@pytest.mark.parametrize(("is_terminal", "said"), [(True, "\u241b[2J"), (False, "\x1b[2J")])
def test_control_characters_are_escaped_on_a_terminal_only(is_terminal, said, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal, raising=False)
    assert escape_for_terminal("\x1b[2J") == said


def test_notes_go_to_standard_error_and_a_missing_setting_has_a_text(capsys):
    print_note("a is read as b")
    assert capsys.readouterr() == ("", "note: a is read as b\n")
    assert format_side({"first": None}, "first") == "null"
    assert format_side({"first": None}, "second") == "(no such setting)"
