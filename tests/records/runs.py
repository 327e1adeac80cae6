"""Records of whole runs, bit by bit, so that a refactoring can show that it changes no number.

    python -m tests.records.runs write FILE          run every case, write losses and hashes
    python -m tests.records.runs check FILE          run every case, compare with FILE (of this kind of machine)
    python -m tests.records.runs against COMMIT      record COMMIT and the working tree on this machine, compare

`against` trains the working tree on the tokens that COMMIT prepared: a change of what is held out, or of a
dataset's format, changes the order of the rows, and would hide a change of the training. Only the command line
is used, so the same file records any version of the program: `against` runs it on the sources of another commit.
Equality is to the last bit, which holds on one machine with one torch: `check` therefore refuses a record of
another processor, and `against` is what `make records` calls.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
STEPS = 40
WORDS = "the of and to in is was that for it with as his on be at by had not are but from or have an they".split()

BASE = {
    "model.hidden_size": 32,
    "model.num_layers": 2,
    "model.num_attention_heads": 2,
    "model.num_key_value_heads": 1,
    "model.max_position_embeddings": 32,
    "tokenizer.vocab_size": 300,
    "data.validation_fraction": 0.1,
    "data.num_workers": 1,
    "data.micro_batch_size": 4,
    "data.global_batch_size": 8,
    "data.shard_text_bytes": 65536,
    "scheduler.total_steps": STEPS,
    "scheduler.warmup_steps": 4,
    "runtime.device": "cpu",
    "runtime.precision": "fp32",
    "runtime.log_every_n_steps": 1,
    "runtime.checkpoint.every_n_steps": STEPS,
    "runtime.evaluation.every_n_steps": STEPS // 2,
    "runtime.sample": None,
    "runtime.logging.enable_stdout": False,
}


def cases(text: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the settings of each run; `text` is the folder that `write_corpus` filled."""
    plain = {"data.train_shards": [str(text / "plain")]}
    rows = {"data.train_shards": [str(text / "rows.jsonl")]}  # short documents: masks and packing matter
    for algorithm in ("muon", "adam_w", "adam", "sgd", "lion"):
        for packing in ("chunk", "bfd"):
            for mask in (False, True):
                name = f"{algorithm}-{packing}{'-mask' if mask else ''}"
                yield (
                    name,
                    {
                        **rows,
                        "optimizer.algorithm": algorithm,
                        "data.packing": packing,
                        "data.document_mask": mask,
                    },
                )
    for tied in (True, False):
        yield f"{'tied' if tied else 'untied'}", {**plain, "model.tie_word_embeddings": tied}
    yield "average", {**plain, "optimizer.ema_decay": 0.9}
    yield "average-adam_w", {**plain, "optimizer.algorithm": "adam_w", "optimizer.ema_decay": 0.9}
    yield "normuon", {**plain, "optimizer.normuon_beta2": 0.95, "optimizer.cautious_decay": True}
    yield "chat", {"data.train_shards": [str(text / "chat.jsonl")], "data.format": "chat"}
    yield (
        "chat-bfd",
        {
            "data.train_shards": [str(text / "chat.jsonl")],
            "data.format": "chat",
            "data.packing": "bfd",
            "data.document_mask": True,
        },
    )
    mixture = [{"shards": [str(text / "plain")], "weight": 3}, {"shards": [str(text / "rows.jsonl")], "weight": 1}]
    yield "mixture", {"data.mixture": mixture}
    yield "mixture-bfd-mask", {"data.mixture": mixture, "data.packing": "bfd", "data.document_mask": True}
    yield (
        "ragged",
        {
            **plain,
            "data.validation_shards": [str(text / "rows.jsonl")],
            "data.micro_batch_size": 5,
            "data.global_batch_size": 5,
            "model.max_position_embeddings": 30,
        },
    )
    yield "window-order", {**plain, "data.order": "window", "data.shuffle_buffer_size": 64}
    yield "deduplicated", {**rows, "data.deduplicate": True}
    yield "dropout", {**plain, "model.attn_dropout": 0.1, "model.residual_dropout": 0.1}
    yield "windows", {**plain, "model.sliding_window": 8, "model.full_attention_every": 2}
    yield "silu", {**plain, "model.mlp": "silu", "model.qk_norm": False, "model.attention_bias": True}
    yield (
        "yarn",
        {
            **plain,
            "model.rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16},
        },
    )
    yield (
        "ramp",
        {
            **plain,
            "data.micro_batch_size": 2,
            "data.batch_ramp": [{"steps": 5, "global_batch_size": 2}, {"steps": 5, "global_batch_size": 4}],
        },
    )
    yield "recompute", {**plain, "runtime.recompute": "block"}
    yield "bf16", {**plain, "runtime.precision": "bf16"}
    yield "fp16", {**plain, "runtime.precision": "fp16"}
    yield "epochs", {**plain, "scheduler.total_steps": None, "scheduler.total_epochs": 0.1}


def write_corpus(folder: Path) -> None:
    """Write the same text on every machine: plain files, rows with copies among them, chats."""
    choose = random.Random(7)

    def text(words: int) -> str:
        parts = [choose.choice(WORDS) + ("\n" if i % 17 == 16 else "") for i in range(words)]
        return " ".join(parts).replace("\n ", "\n") + "\n"

    (folder / "plain").mkdir()
    for number in range(6):
        (folder / "plain" / f"{number}.txt").write_text(text(3000))
    rows = [text(choose.randrange(3, 25)) for _ in range(1200)]
    rows += rows[:40]
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    chats = []
    for _ in range(300):
        turns = [("user", text(6)), ("assistant", text(9)), ("user", text(4)), ("assistant", text(12))]
        chats.append({"messages": [{"role": role, "content": said} for role, said in turns]})
    (folder / "chat.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))


def record(folder: Path, tokens_of: Path | None = None) -> dict[str, Any]:
    """Run every case with the `candlewick` that Python finds, and return what came out of each.

    With `tokens_of`, the folder of another record, on the tokens that its runs read.
    """
    import torch

    from candlewick.cli.main import main

    torch.set_num_threads(1)
    runs: dict[str, Any] = {}
    text = folder / "text"
    text.mkdir()
    write_corpus(text)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    for name, settings in cases(text):
        run_dir = folder / "runs" / name
        given = settings if tokens_of is None else settings | prepared_sources(tokens_of / "runs" / name)
        overrides = [
            part for key, value in (BASE | given).items() for part in ("--override", f"{key}={json.dumps(value)}")
        ]
        kept = io.StringIO()
        with contextlib.redirect_stdout(kept), contextlib.redirect_stderr(kept):
            code = main(["train", "--run-dir", str(run_dir), "--quiet", *overrides])
        if code:
            raise SystemExit(f"{name}: exit code {code}\n{kept.getvalue()[-2000:]}")
        runs[name] = outcome(run_dir)
        sys.stderr.write(f"{name}: {runs[name]['losses'][-1]:.6f}\n")
    return {"machine": machine(), "runs": runs}


def prepared_sources(run_dir: Path) -> dict[str, Any]:
    """Return the settings that name the token datasets which a run of any version read."""
    data = yaml.safe_load((run_dir / "config.yaml").read_text())["data"]
    prepared = {name: str((run_dir / folder).resolve()) for name, folder in data.get("prepared", {}).items()}
    if data.get("mixture"):
        sources = [prepared.get(f"tokens_{i}", source["shards"][0]) for i, source in enumerate(data["mixture"])]
        weights = [source["weight"] for source in data["mixture"]]
        mixture = zip(sources, weights, strict=True)
        return {"data.mixture": [{"shards": [source], "weight": weight} for source, weight in mixture]}
    found: dict[str, Any] = {"data.train_shards": [prepared.get("tokens", data["train_shards"][0])]}
    if data["validation_shards"]:
        found["data.validation_shards"] = [prepared.get("validation", data["validation_shards"][0])]
    return found


def outcome(run_dir: Path) -> dict[str, Any]:
    """Return the losses, the last evaluation, and hashes of the last checkpoint of a run."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    last = max((run_dir / "checkpoints").glob("step_*"))
    # the figures of the last evaluation are named final/... since version 2
    evaluations = [row for row in rows if {"eval/loss", "final/loss"} & row.keys()]
    last_figures = {name.replace("final/", "eval/"): value for name, value in evaluations[-1].items()}
    state = next(path for path in (last / "training" / "state.json", last / "state.json") if path.is_file())
    counters = json.loads(state.read_bytes())["counters"]
    return {
        "losses": [row["train/loss"] for row in rows if "train/loss" in row],
        "norms": hashlib.sha256(json.dumps([row.get("train/grad_norm") for row in rows]).encode()).hexdigest(),
        "evaluation": {name: value for name, value in last_figures.items() if name.startswith("eval/")},
        "step": counters["step"],
        "tokens": counters["tokens"],
        "weights": tensors_sha256(last / "model.safetensors"),
        "optimizer": tensors_sha256(state.with_name("optimizer.safetensors")),
        "config.json": hashlib.sha256((last / "config.json").read_bytes()).hexdigest(),
        "tokenizer.json": hashlib.sha256((last / "tokenizer.json").read_bytes()).hexdigest(),
        "inputs": json.loads((last / "manifest.json").read_bytes())["inputs"],
    }


def tensors_sha256(path: Path) -> str:
    """Hash names, shapes, dtypes and bytes of all tensors of a file, in the order of their names."""
    from safetensors import safe_open

    digest = hashlib.sha256()
    with safe_open(path, framework="np") as file:
        for name in sorted(file.keys()):
            array = file.get_tensor(name)
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return digest.hexdigest()


def machine() -> dict[str, str]:
    """Return what the bits of a result depend on besides the program."""
    import torch

    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    return {
        "processor": model,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return a line for each value of a run that differs, and for each run that only one side has."""
    lines = [f"{name}: only one side has this run" for name in sorted(before.keys() ^ now.keys())]
    for name in sorted(before.keys() & now.keys()):
        for key in sorted(before[name].keys() | now[name].keys()):
            old, new = before[name].get(key), now[name].get(key)
            if old != new:
                lines.append(f"{name}: {key} was {str(old)[:90]}, is {str(new)[:90]}")
    return lines


def against(commit: str) -> int:
    """Record another commit and the working tree in processes of their own; return the number of differences."""
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "tree"
        git = ["git", "-C", str(ROOT)]
        subprocess.run([*git, "worktree", "add", "--detach", "--quiet", str(tree), commit], check=True)
        try:
            files = {"before": tree, "now": ROOT}
            for name, sources in files.items():
                folder = Path(temporary) / name
                command = [sys.executable, __file__, "write", f"{folder}.json", "--folder", str(folder)]
                command += [] if name == "before" else ["--tokens-of", str(Path(temporary) / "before")]
                subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(sources / "src")})
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(tree)], check=True)
        before, now = (json.loads((Path(temporary) / f"{name}.json").read_bytes()) for name in files)
    return report(before, now, commit)


def report(before: dict[str, Any], now: dict[str, Any], name: str) -> int:
    """Print what differs and return how much of it there is."""
    lines = differences(before["runs"], now["runs"])
    print("\n".join([*lines, f"{len(now['runs'])} runs, {len(lines)} differences from {name}"]))
    return len(lines)


def run(argv: list[str] | None = None) -> int:
    """Run one command; return 1 if anything differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("action", choices=("write", "check", "against"))
    parser.add_argument("name", metavar="FILE|COMMIT")
    parser.add_argument("--folder", type=Path, help="keep text, tokens and runs here")
    parser.add_argument("--tokens-of", type=Path, help="folder of another record, whose tokens are read")
    args = parser.parse_args(argv)
    if args.action == "against":
        return int(against(args.name) > 0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary) / "record"
        folder.mkdir()
        now = record(folder, args.tokens_of)
    if args.action == "write":
        runs = ",\n".join(f"{json.dumps(name)}: {json.dumps(found)}" for name, found in now["runs"].items())
        Path(args.name).write_text(f'{{"machine": {json.dumps(now["machine"])},\n"runs": {{\n{runs}\n}}}}\n')
        return 0
    before = json.loads(Path(args.name).read_bytes())
    if before["machine"] != now["machine"]:
        print(f"{args.name} was recorded on {before['machine']}, this is {now['machine']}: use `against COMMIT`")
        return 1
    return int(report(before, now, args.name) > 0)


if __name__ == "__main__":
    raise SystemExit(run())
