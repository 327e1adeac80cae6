"""Each row in the tables of docs/from-candle.md names a test that runs what the row promises.

The rows of the first table are those of section 0 of the audit: everything that transformer_candle's README names.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "from-candle.md"
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")

README_ITEMS = (
    "`cargo run --release`",
    "`tests/`",
    "`docs/rope.md`",
    "`infra/runpod-pod.yaml`",
    "the sharder",
    "`orchestrate --mode cloud`",
    "`train --config",
    "the profiles",
    "tokenizer reuse",
    "`crates/tokenizer`",
    "`crates/pretraining-data`",
    "TensorBoard",
    "`vivienhenz/sconce`",
    "`RUST_LOG=info`",
    "attention",
)
"""How the row of each item of transformer_candle's README begins."""


def tables() -> dict[str, list[list[str]]]:
    """Return the rows of the page's tables by the heading above them."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found.setdefault(heading, []).append(cells)
    return {name: rows[2:] for name, rows in found.items()}  # without the head and the line below it


ROWS = [(heading, row) for heading, rows in tables().items() for row in rows]


def functions(path: Path) -> set[str]:
    """Return the names of the functions of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("heading", "row"), ROWS, ids=[row[0][:60] for _, row in ROWS])
def test_row_of_from_candle_md_names_an_existing_test(heading: str, row: list[str]):
    named = _TEST.findall(row[-1])
    assert named, f"{heading}: {row[0]} names no test"
    missing = [f"{file}::{name}" for file, name in named if name not in functions(ROOT / file)]
    assert not missing, f"{heading}: {row[0]} names tests that do not exist: {missing}"


@pytest.mark.parametrize("item", README_ITEMS)
def test_item_of_the_readme_of_transformer_candle_has_a_row(item: str):
    rows = tables()["What its README names"]
    assert sum(row[0].startswith(item) for row in rows) == 1


def test_configuration_keys_of_transformer_candle_have_rows():
    rows = tables()["Every key of a configuration"]
    keys = [key for row in rows for key in re.findall(r"`([a-z_0-9]+(?:\.[a-z_0-9]+)+)`", row[0])]
    assert len(keys) == len(set(keys)) == 51
