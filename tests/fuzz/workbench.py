"""Try one random configuration: read, prepare, build, train for two updates, evaluate.

    text --load_config--> RunConfig --cap--> small RunConfig --prepare, build--> Trainer --2 x step--> "ran"
              |                                                   |            evaluate, snapshot, sample
              `------------------ CandlewickError of one line ----'                          --> "refused"

Anything else is a defect, also a configuration that `cap` makes invalid. `cap` keeps a model tiny after the
configuration was read as it is: widths, layers, rows, tokens and the trained vocabulary get an upper limit. What
would leave the process is off and so not tried: another device than the CPU, `init_from`, a given
`tokenizer_json`, folders of its own (checkpoints, the cache), TensorBoard, the terminal.

Sources of text become tiny ones, with a duplicate and bytes that are not UTF-8, prepared with the
configuration's own settings. The second of a mixture has a thousand short documents (held out by hash; of chats
fewer), the others a few (by tails). With `bad_utf8: error` only that one has bad bytes. A configuration without
training text gets some. What is prepared stays in the process and in a cache folder.
"""

import json
import math
import random
import shutil
import signal
import traceback
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tests.prepared import prepare

from candlewick.artifacts.manifest import canonical_json, json_sha256
from candlewick.config import DataConfig, RunConfig, SampleConfig
from candlewick.config.load import load_config
from candlewick.config.tree import dump
from candlewick.data.rows.batches import BatchSchedule
from candlewick.data.text.reading import Reading
from candlewick.errors import CandlewickError
from candlewick.optim.schedule import multiplier
from candlewick.runs.complete import complete_plan, make_sampler, sample_prompts
from candlewick.runs.prepare import PreparedRun
from candlewick.runs.sources import with_datasets
from candlewick.train.build import build
from candlewick.train.step import train_step

SECONDS = 60  # for one configuration, on a slow and busy core
_MOST = {
    "model": {"hidden_size": 64, "num_layers": 2, "num_attention_heads": 4, "head_dim": 32,
              "intermediate_size": 128, "vocab_size": 1024, "max_position_embeddings": 32},
    "tokenizer": {"vocab_size": 300},
    "data": {"sequence_length": 32, "global_batch_tokens": 512, "shuffle_buffer_size": 1000},
}  # fmt: skip
_OFF = {
    "runtime.logging.enable_stdout": False, "runtime.logging.tensorboard": False,
    "runtime.checkpoint.directory": None, "runtime.checkpoint.init_from": None,
    "tokenizer.tokenizer_json": None, "tokenizer.special_tokens": None, "runtime.device": "cpu",
}  # fmt: skip
_PREPARING = {
    "train_shards", "mixture", "validation_shards", "validation_sets", "format", "documents", "text_field",
    "messages_field", "bad_utf8", "deduplicate", "validation_fraction", "shard_text_bytes", "cache_dir",
}  # fmt: skip


class Defect(Exception):
    """A configuration was neither run nor refused in one line."""


class Workbench:
    """A folder with small texts, for any number of configurations one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open = lru_cache(32)(_open)  # each holds files open

    def attempt(self, suffix: str, text: str) -> str:
        """Return what became of a configuration: `ran` or `refused`. Raises Defect."""
        path = self.folder / f"config{suffix}"
        path.write_text(text, encoding="utf-8")
        try:
            with _limited(SECONDS):
                return self._attempt(path)
        except CandlewickError as error:
            if "\n" in str(error) or not str(error).isprintable():
                raise Defect(f"the message is not one line of text: {str(error)!r}") from error
            return "refused"
        except Exception as error:
            raise Defect(traceback.format_exc()) from error
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()

    def _attempt(self, path: Path) -> str:
        config = load_config(path)
        kind = "json" if path.suffix == ".json" else "toml"  # YAML takes its time
        again = self.folder / f"again.{kind}"
        again.write_text(dump(config, kind), encoding="utf-8")
        if load_config(again) != config:
            raise Defect(f"what it resolves to is another configuration:\n{again.read_text()}")
        config = cap(config)
        self._run(config.replaced(data=config.data.replaced(**self._sources(config.data))))
        return "ran"

    def _sources(self, data: DataConfig) -> dict[str, Any]:
        """Return tiny texts in the place of what a configuration names."""
        first, second, third = (str(self._text(data, number)) for number in range(3))
        mixture = zip(data.mixture, (first, second) * len(data.mixture), strict=False)
        return {
            "train_shards": () if data.mixture else (first,),
            "mixture": tuple(source.replaced(shards=(text,)) for source, text in mixture),
            "validation_shards": (third,) if data.validation_shards else (),
            "validation_sets": dict.fromkeys(data.validation_sets, (third,)),
            "cache_dir": self.folder / "cache",
        }

    def _text(self, data: DataConfig, number: int) -> Path:
        """Return the folder of a text in the format of a configuration, written at first use."""
        is_bad = number == 1 or data.bad_utf8 != "error"
        name = json_sha256([data.format, Reading.from_config(data).field, is_bad, number])[:16]
        folder = self.folder / f"text-{name}"
        if not folder.exists():
            folder.mkdir()
            _write_text(folder, data, number, b"\xff" if is_bad else b"")
        return folder

    def _run(self, config: RunConfig) -> None:
        settings = {
            "data": config.data.model_dump(mode="json", include=_PREPARING),
            "tokenizer": config.tokenizer.model_dump(mode="json"),
            "scheduler": {"total_steps": 1},
        }
        data = self._open(json.dumps(settings))
        folders = {name: dataset.folder for name, dataset in data.datasets.items()}
        batches = BatchSchedule.from_config(config.data, config.sequence_length, world_size=1)
        prepared = replace(data, config=with_datasets(config, folders, {}), batches=batches)
        plan = complete_plan(replace(prepared, run_dir=self.folder / "run"))
        # sampling takes as long as all the rest
        is_default = config.runtime.sample == SampleConfig(max_new_tokens=4)
        prompts = sample_prompts(config, data.tokenizer, plan.data.validation)
        sampler = None if is_default else make_sampler(config, data.tokenizer, prompts)
        trainer = build(plan, sampler)
        parts = trainer
        try:
            with parts.reporter.running(trainer.state):
                for step in range(2):
                    parts.optimizer.set_lr(
                        multiplier(
                            config.scheduler, step, trainer.state.total_steps, peak=config.optimizer.learning_rate
                        )
                    )
                    update, limit = parts.loader.next(), config.optimizer.max_grad_norm
                    result = train_step(parts.objective, parts.optimizer, update, limit, parts.loss_scale)
                    if not result.skipped.item() and not math.isfinite(result.loss.item()):
                        raise Defect(f"the loss of a taken step is {result.loss.item()}")
                metrics = parts.evaluate(1)
                canonical_json(parts.snapshot().state)
                if parts.sampler is not None:
                    parts.sample()
        finally:
            parts.loader.close()
            shutil.rmtree(plan.run_dir)
        names = plan.data.validation_splits
        missing = [name for name in names if "/".join(filter(None, ("eval", name, "loss"))) not in metrics]
        if missing:
            raise Defect(f"the evaluation has no loss of {missing}, but {sorted(metrics)}")


def _open(text: str) -> PreparedRun:
    return prepare(RunConfig.model_validate_json(text))


def _write_text(folder: Path, data: DataConfig, number: int, bad: bytes) -> None:
    """Write files of some KB: documents of random words, one of them twice, `bad` in two of them."""
    choose = random.Random(number)
    words = ["".join(choose.choices("aeiounrst", k=choose.randint(1, 7))) for _ in range(200)]
    count, length = (1000, 3) if number == 1 else (12, 150)
    texts = [" ".join(choose.choices(words, k=length)) for _ in range(count)]
    texts.insert(3, texts[0])
    rows: list[Any] = texts
    if data.format == "chat":
        rows = [[{"role": "user", "content": text[:20]}, {"role": "assistant", "content": text}] for text in texts]
        rows.insert(2, [{"role": "system", "content": "nobody answers"}])
    lines = [json.dumps({Reading.from_config(data).field: row}).encode() for row in rows]
    lines[1] = lines[1].replace(texts[1].encode(), texts[1].encode() + bad)
    lines = lines[: 60_000 // max(map(len, lines))]  # one shard, so no processes: those of a campaign have none
    (folder / "rows.jsonl").write_bytes(b"\n".join(lines))
    if data.format == "text":
        for name, end in (("a", b""), ("b", b""), ("c", bad)):
            (folder / f"{name}.txt").write_bytes("\n".join(texts[:6]).encode() + end)


def cap(config: RunConfig) -> RunConfig:
    """Return a configuration that a slow core trains in milliseconds; see the top."""
    tree = config.model_dump(mode="json")
    model, data, runtime = tree["model"], tree["data"], tree["runtime"]
    is_narrower = model["head_dim"] > _MOST["model"]["head_dim"]
    for section, limits in _MOST.items():
        for key, most in limits.items():
            if tree[section][key] is not None:
                tree[section][key] = min(tree[section][key], most)
    for key, value in _OFF.items():
        _put(tree, key, value)
    model["num_key_value_heads"] = math.gcd(model["num_attention_heads"], model["num_key_value_heads"])
    rotary = int(model["head_dim"] * model["partial_rotary_factor"])
    if is_narrower and (rotary % 2 or rotary < 4):
        model["partial_rotary_factor"] = 1.0
    if data["sequence_length"] is not None:  # init_from, now gone, may have allowed more
        data["sequence_length"] = min(data["sequence_length"], model["max_position_embeddings"])
    if data["micro_batch_size"] > 4:  # what was a multiple of it stays one
        data["micro_batch_size"] = math.gcd(data["micro_batch_size"], 4)
    most_rows = 16 - 16 % data["micro_batch_size"]
    for batch in (data, *data["batch_ramp"]):
        if batch["global_batch_size"] is not None:
            batch["global_batch_size"] = min(batch["global_batch_size"], most_rows)
    if runtime["sample"] is not None:
        runtime["sample"]["max_new_tokens"] = min(runtime["sample"]["max_new_tokens"], 4)
    if runtime["evaluation"]["best"] is not None:
        runtime["evaluation"]["best"]["directory"] = None
    return RunConfig.model_validate_json(json.dumps(tree))


def _put(tree: dict[str, Any], key: str, value: object) -> None:
    *around, last = key.split(".")
    for part in around:
        tree = tree[part]
    tree[last] = value


@contextmanager
def _limited(seconds: int):
    """Raise TimeoutError in the block after so many seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
