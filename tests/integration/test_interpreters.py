"""The script that runs the unit tests on other Python versions names the versions it does not find."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_interpreters_script_names_versions_not_found():
    done = subprocess.run(
        [ROOT / ".ci" / "interpreters", "3.99", "2.1"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "Python 3.99: no interpreter was found\nPython 2.1: no interpreter was found\n"
