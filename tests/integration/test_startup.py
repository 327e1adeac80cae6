"""A run imports no more than it needs: torch's compiler and its modules for ranks take longer than the rest."""

import json
import subprocess
import sys

SCRIPT = """
import json, sys
from candlewick.cli.main import main
code = main(sys.argv[1:])
print(json.dumps([code, sorted(name for name in sys.modules if name.count(".") < 3)]))
"""
UNNEEDED = {
    "sympy",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "tensorboard",
    "jinja2",
}


def test_training_evaluation_and_generation_import_neither_a_compiler_nor_ranks(tiny, config_file, tmp_path):
    config = tiny(scheduler={"total_steps": 2, "warmup_steps": 1})
    run_dir = str(tmp_path / "run")
    for words in (
        ["train", "--config", config_file(config), "--run-dir", run_dir],
        ["train", "--resume", run_dir, "--override", "scheduler.total_steps=3"],
        ["eval", run_dir],
        ["generate", run_dir, "a"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        code, modules = json.loads(done.stdout.splitlines()[-1])  # after what the command printed
        assert code == 0, done.stderr
        assert "torch" in modules
        assert not UNNEEDED & set(modules), words[0]
