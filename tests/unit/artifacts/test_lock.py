import os
import subprocess
import sys

import pytest

from candlewick.artifacts.lock import run_lock
from candlewick.errors import CheckpointError


def test_lock_in_use_is_refused_with_the_process_id_of_its_holder(tmp_path):
    said = rf"in use by .*{os.getpid()}"
    with run_lock(tmp_path / "run"), pytest.raises(CheckpointError, match=said), run_lock(tmp_path / "run"):
        pass
    with run_lock(tmp_path / "run"):
        pass


HOLD = """
import pathlib, signal, sys
from candlewick.artifacts.lock import run_lock
with run_lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    signal.pause()
"""


def test_lock_of_a_killed_process_is_free(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(CheckpointError, match=str(process.pid)), run_lock(tmp_path):
        pass
    process.kill()
    process.communicate()
    with run_lock(tmp_path):
        pass
