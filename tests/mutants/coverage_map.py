"""The map of which test runs which line: one run of all tests makes it, and a folder keeps it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from coverage import CoverageData

PLUGIN = Path(__file__).with_name("mutant_plugin.py")
_SETTINGS = """[run]
source = src
relative_files = true
core = ctrace
"""


def files_of(root: Path) -> list[str]:
    """List the files of a checkout that git knows or would add, sorted."""
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root, capture_output=True, check=True
    )
    names = {name for name in listing.stdout.decode().split("\0") if (root / name).is_file()}
    return sorted(names)


def copy_tree(root: Path, to: Path) -> Path:
    """Copy those files, and the plugin, to a folder; return the folder."""
    for name in files_of(root):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, to / name)
    shutil.copy2(PLUGIN, to)  # pytest's folder is on its path
    return to


def key_of(root: Path) -> str:
    """Return the hash of what decides which test runs which line: names and content of `src` and `tests`."""
    digest = hashlib.sha256()
    for name in files_of(root):
        if name.startswith(("src/", "tests/")) and not name.startswith("tests/mutants/"):
            digest.update(f"{name}\0{hashlib.sha256((root / name).read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def environment(tree: Path) -> dict[str, str]:
    """Return the variables under which pytest tests the copied tree: what a mutant damages lies inside of it."""
    folders = {"HOME": tree / ".home", "TMPDIR": tree / ".tmp"}
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    return {**os.environ, "PYTHONPATH": str(tree / "src")} | {name: str(path) for name, path in folders.items()}


def pytest_command(*words: str) -> list[str]:
    return ["pytest", "-q", "-p", PLUGIN.stem, "-p", "no:cacheprovider", *words]


@dataclass(frozen=True)
class CoverageMap:
    """Tests with their seconds, and the lines that each of them runs."""

    tests: dict[str, dict]
    fixtures: dict[str, float]
    data: CoverageData

    @classmethod
    def open(cls, folder: Path) -> "CoverageMap":
        """Open a map; raise OSError where there is none."""
        recorded = json.loads((folder / "tests.json").read_text())
        data = CoverageData(str(folder / "lines.coverage"))
        data.read()
        return cls(recorded["tests"], recorded["fixtures"], data)

    @classmethod
    def make(cls, tree: Path, folder: Path, tests: str = "tests") -> "CoverageMap":
        """Run the tests of a copied tree once, which takes as long as they do, and write the map to a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "coveragerc").write_text(_SETTINGS)
        words = [f"--rcfile={folder / 'coveragerc'}", f"--data-file={folder / 'lines.coverage'}", "-m"]
        command = [sys.executable, "-m", "coverage", "run", *words, *pytest_command(tests)]
        command += ["--ignore=tests/mutants", f"--record={folder / 'tests.partial'}"]
        with (folder / "log.txt").open("wb") as log:
            done = subprocess.run(
                command, cwd=tree, env=environment(tree), stdout=log, stderr=subprocess.STDOUT, check=False
            )
        if done.returncode not in (0, 1):  # 1: some test failed
            raise RuntimeError(f"the tests did not run: see {folder / 'log.txt'}")
        (folder / "tests.partial").replace(folder / "tests.json")
        return cls.open(folder)

    def failures(self) -> list[str]:
        """List the tests that did not pass without any mutant; they decide nothing."""
        return [name for name, test in self.tests.items() if test["outcome"] == "failed"]

    def seconds(self, test: str) -> float:
        """Return what a test costs when it runs alone: its own seconds and those of its shared fixtures."""
        known = self.tests[test]
        return known["seconds"] + sum(self.fixtures.get(name, 0.0) for name in known["fixtures"])

    def tests_of(self, file: str, lines: range | None) -> list[str]:
        """List the passing tests that run one of the lines of a file (None: any), quickest first."""
        by_line = self.data.contexts_by_lineno(file)
        contexts = {name for line in (by_line if lines is None else lines) for name in by_line.get(line, ())}
        seen = [
            name
            for name, test in self.tests.items()
            if test["outcome"] == "passed" and (name in contexts or not contexts.isdisjoint(test["fixtures"]))
        ]
        return sorted(seen, key=self.seconds)
