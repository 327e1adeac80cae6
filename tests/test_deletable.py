"""A copy of the package without compat passes its tests: compatibility with transformer_candle is deletable.

DELETED and WORDS are that commit, with what names them: the layer in pyproject.toml, links to docs/from-candle.md,
rows in ARCHITECTURE.md, and in test_explain.py `optimizer.algorithm`, which nothing else reads by that name.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DELETED = (
    "src/candlewick/compat",
    "src/candlewick/cli/candle.py",
    "docs/from-candle.md",
    "tests/candle.py",
    "tests/candle_project.py",
    "tests/integration/test_candle_configs.py",
    "tests/integration/test_candle_project.py",
    "tests/integration/test_from_candle.py",
    "tests/integration/test_import_candle.py",
    "tests/test_deletable.py",
    "tests/unit/cli/test_candle.py",
    "tests/unit/compat",
)
IMPORT = "from candlewick.cli import candle\n"
WORDS = {  # in the files of cli that call or name it: what goes
    "arguments.py": (", candle.dialect()",),
    "config.py": ("; converts a transformer_candle configuration",),
    "import_model.py": ("    candle.add_import(kinds)\n",),
    "main.py": ("        error = candle.explain(error)\n", "candle or "),
    "tokenizer.py": ("candle.train_tokenizer(args) or ", " or candle.open_tokenizer(args.config)"),
    "orchestrate.py": (" and not candle.is_candle(args.config)",),
    "train.py": ("    candle.read_as_candle(args)\n",),
}
TESTS = (  # of what calls it today
    *("tests/unit/config/test_load.py", "tests/unit/cli/test_config.py", "tests/unit/cli/test_tokenizer.py"),
    *(
        "tests/unit/cli/test_train.py",
        "tests/unit/cli/test_import_model.py",
        "tests/unit/checkpoint/test_layout.py",
    ),
)
IMPORT_ALL = """
import importlib, pkgutil, candlewick
for module in pkgutil.walk_packages(candlewick.__path__, "candlewick."):
    if module.name != "candlewick.__main__":
        importlib.import_module(module.name)
print(candlewick.__file__)
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of the checkout after the commit."""
    folder = tmp_path_factory.mktemp("deleted")
    for name in ("src", "tests", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in DELETED:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, parts in WORDS.items():
        path = folder / "src" / "candlewick" / "cli" / name
        text = path.read_text(encoding="utf-8")
        for part in parts:
            assert text.count(part) == 1, f"{name}: {part}"
            text = text.replace(part, "")
        path.write_text(re.sub(rf" *{IMPORT}", "", text), encoding="utf-8")
    return folder


def run(folder: Path, *words: str) -> str:
    """Run Python on the copy; return what it prints."""
    environment = {**os.environ, "PYTHONPATH": f"{folder / 'src'}{os.pathsep}{folder}"}
    command = [sys.executable, "-B", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def test_modules_outside_compat_do_not_name_candle(copy):
    naming = [
        str(path.relative_to(copy))
        for path in sorted((copy / "src").rglob("*.py"))
        if re.search(r"(?<!tensorboard\.)\b(compat|candle)\b", path.read_text(encoding="utf-8"))
    ]
    assert naming == []


def test_modules_outside_compat_import_without_it(copy):
    assert run(copy, "-c", IMPORT_ALL).strip() == str(copy / "src" / "candlewick" / "__init__.py")


def test_tests_pass_without_compat(copy):
    run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS)
