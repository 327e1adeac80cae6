"""ARCHITECTURE.md's table "I want to change X, I edit Y" names files and symbols that exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "candlewick"
_SPAN = re.compile(r"`([\w./-]+/|[\w./-]+\.\w+)(?:: ([\w, ]+))?`")


def rows() -> dict[str, str]:
    """Return the cells of the table: the wish, and what to edit for it. Group heads are left out."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text.partition("| I want to | I edit |\n|---|---|\n")[2].partition("\n\n")[0]
    cells = [line.strip("| ").split(" | ") for line in table.splitlines() if not line.startswith("| **")]
    return dict(cells)


def places(edit: str) -> set[str]:
    """Return the `file: symbol` pairs of a cell, and the files and folders that are named without a symbol."""
    return {
        f"{path}: {symbol}" if symbol else path
        for path, symbols in _SPAN.findall(edit)
        for symbol in symbols.split(", ")
    }


def symbols_of(path: Path) -> Iterator[str]:
    """Yield the names that a module defines."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))


def test_table_has_rows_for_every_package():
    named = {place.partition("/")[0] for edit in rows().values() for place in places(edit)}
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - {"artifacts"} <= named  # whose protocol nobody is to change


@pytest.mark.parametrize("wish", rows())
def test_row_names_existing_files_and_symbols(wish):
    named = places(rows()[wish])
    assert named, f"the row `{wish}` names no file"
    for place in named:
        path, _, symbol = place.partition(": ")
        found = next((folder / path for folder in (PACKAGE, ROOT) if (folder / path).exists()), None)
        assert found is not None, f"the row `{wish}` names {path}, which does not exist"
        if found.suffix == ".py":
            assert symbol, f"the row `{wish}` names {path} and no symbol of it"
            assert symbol in symbols_of(found), f"the row `{wish}` names {place}, which {path} does not define"


@pytest.mark.parametrize("wish", rows())
def test_row_names_at_most_four_files(wish):
    assert len({place.partition(": ")[0] for place in places(rows()[wish])}) <= 4
