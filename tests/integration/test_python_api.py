"""The Python page and the notebook run, each in a fresh process, from a script without a main guard."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import make_text

DOCS = Path(__file__).resolve().parents[2] / "docs"
NOTEBOOK = DOCS / "first_steps.ipynb"
# a few steps on short rows, in the place of a minute
BUDGET = "steps=3, context=64, batch=4, vocab_size=300, "
QUIET = '"runtime.logging.enable_stdout": False, "runtime.device": "cpu", "data.num_workers": 2'


@pytest.fixture
def folder(tmp_path):
    """A folder to work in, with notes and chats."""
    (tmp_path / "notes").mkdir()
    for number in range(2):
        (tmp_path / "notes" / f"{number}.txt").write_text(make_text(number, 3000))
    with (tmp_path / "chats.jsonl").open("w") as file:
        for number in range(400):
            turns = [("user", f"Who is {number}?"), ("assistant", f"The model number {number}.")]
            messages = [{"role": role, "content": content} for role, content in turns]
            file.write(json.dumps({"messages": messages}) + "\n")
    return tmp_path


def run(code: str, folder: Path) -> str:
    """Run code as a script in a folder; return what it prints."""
    code = re.sub(
        "(seconds|steps)=(60|100|SECONDS),? ?", BUDGET, code.replace("vocab_size=2048", "vocab_size=300")
    )
    code = code.replace("overrides={", f"overrides={{{QUIET}, ")
    (folder / "script.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_python_of_the_page_runs(folder):
    blocks = re.findall(r"^```python\n(.*?)^```$", (DOCS / "python.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = blocks[0].replace("\n\n", "\n").splitlines()
    assert len(lines) <= 10
    shown = run("".join(blocks), folder)
    assert shown.splitlines()[-1].split()[-1] in ("True", "False")


def test_notebook_has_the_format_and_no_outputs():
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = notebook["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        code = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert cell.keys() == {"cell_type", "id", "metadata", "source"} | code
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert all(line.endswith("\n") for line in cell["source"][:-1])


def test_cells_of_the_notebook_run_one_after_the_other(folder):
    cells = [cell for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    code = "\n".join("".join(cell["source"]) for cell in cells)
    assert "seconds=SECONDS" in code
    shown = run(code.replace('"stories://"', '"notes"'), folder)
    assert re.search(r"held out: [\d.]+ bits per byte\nEvaluation\(loss=", shown)
    assert re.search(r"^ +3 +[\d.]+ #+$", shown, re.MULTILINE)
