"""Preparing text in processes of its own: from a script, and within bounds of memory."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import make_text

from candlewick.artifacts.manifest import read_manifest

SCRIPT = """
import resource
from pathlib import Path
from candlewick.config import DataConfig
from candlewick.data.tokens.prepare import EncodeJob, prepare_tokens
from candlewick.tokenizer.bpe import Tokenizer

def main():
    text = dict(train_shards=("{text}",), shard_text_bytes=1 << 20, num_workers=1, documents="{documents}")
    job = EncodeJob.from_config(DataConfig(**text), Tokenizer.load(Path("{tokenizer}")))
    prepare_tokens(job, Path("{output}"))
    (peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(peak, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)

{call}
"""
GUARDED = 'if __name__ == "__main__":\n    main()'


@pytest.fixture
def run_script(tmp_path, tokenizer_folder):
    """Run the script on a file of so many bytes."""

    def run(num_bytes: int, call: str = GUARDED, documents: str = "file") -> subprocess.CompletedProcess[str]:
        block = make_text(0, 1 << 14)
        text, script = tmp_path / f"{num_bytes}.txt", tmp_path / "script.py"
        text.write_text((block * (num_bytes // len(block) + 1))[:num_bytes])
        paths = {"text": text, "tokenizer": tokenizer_folder, "output": tmp_path / f"{num_bytes}-{documents}"}
        script.write_text(SCRIPT.format(call=call, documents=documents, **paths))
        return subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=300)

    return run


def test_script_without_a_main_guard_runs_once_and_makes_the_same_dataset(run_script, tmp_path):
    ids = []
    for call in ("main()", GUARDED):
        done = run_script(4 << 20, call=call)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 1
        (folder,) = Path(tmp_path).glob("*-file")
        ids.append(read_manifest(folder).id)
        shutil.rmtree(folder)
    assert ids[0] == ids[1]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads its memory from /proc")
@pytest.mark.parametrize("documents", ["file", "line"])
def test_memory_of_preparing_does_not_grow_with_the_text(run_script, documents):
    small, large = (
        [int(kilobytes) for kilobytes in run_script(megabytes << 20, documents=documents).stdout.split()]
        for megabytes in (8, 24)
    )
    assert all(
        high - low < 16 << 10 for low, high in zip(small, large, strict=True)
    )  # one shard has 1 MiB of text
