"""Where one random configuration is tried: read, built, trained for two updates, evaluated.

    text --load_config--> RunConfig --cap--> small RunConfig --build--> Trainer --2 x train_step--> "ran"
              |                                                |            evaluate, snapshot, sample
              `------------------ CandlewickError of one line -'                          --> "refused"

Anything else is a defect. `cap` keeps a model tiny after the configuration was read as it is: widths, layers, rows
and tokens get an upper limit, the device is the CPU, every source of text is one prepared dataset, and what would
write to places of its own (checkpoint folders, TensorBoard, the terminal) is off. The speed of the machine is
measured once. Nothing else is replaced.
"""

import json
import math
import random
import shutil
import signal
import traceback
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from candlewick.artifacts import canonical_json
from candlewick.config import RunConfig, SampleConfig
from candlewick.config_io import dump_json, dump_toml, load_config, to_tree
from candlewick.errors import CandlewickError
from candlewick.optim.schedule import multiplier
from candlewick.pipeline.training import make_sampler, open_data
from candlewick.train import reporter
from candlewick.train.build import TrainingData, build
from candlewick.train.step import train_step

DUMPS = {".toml": dump_toml, ".json": dump_json}
SECONDS = 60  # for one configuration, on a slow and busy core
_MOST = {
    "model": {"hidden_size": 64, "num_layers": 2, "num_attention_heads": 4, "head_dim": 32,
              "intermediate_size": 128, "vocab_size": 1024, "max_position_embeddings": 32},
    "data": {"sequence_length": 32, "micro_batch_size": 4, "global_batch_size": 16, "global_batch_tokens": 512,
             "shuffle_buffer_size": 1000},
}  # fmt: skip
_OFF = {
    "runtime.logging.enable_stdout": False, "runtime.logging.tensorboard": False,
    "runtime.checkpoint.directory": None, "runtime.checkpoint.init_from": None,
    "tokenizer.tokenizer_json": None, "data.cache_dir": None, "runtime.device": "cpu",
}  # fmt: skip


class Defect(Exception):
    """A configuration was neither run nor refused in one line."""


class Workbench:
    """A folder with a small token dataset, for any number of configurations one after another."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        reporter.measure_peak_flops = cache(reporter.measure_peak_flops)  # the machine stays the same
        self.folder = folder
        choose = random.Random(0)
        words = ["".join(choose.choices("aeiounrst", k=choose.randint(1, 7))) for _ in range(200)]
        (folder / "text").mkdir()
        for number in range(20):
            (folder / f"text/{number:02}.txt").write_text(" ".join(choose.choices(words, k=600)))
        tree = {
            "data": {"train_shards": [str(folder / "text")], "cache_dir": str(folder / "cache"), "num_workers": 1,
                     "validation_fraction": 0.1},
            "tokenizer": {"vocab_size": 300},
        }  # fmt: skip
        self.data = open_data(RunConfig.model_validate_json(json.dumps(tree)))

    def attempt(self, suffix: str, text: str) -> str:
        """Return what became of a configuration: `ran`, `refused` or `capped`. Raises Defect."""
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
        again = self.folder / f"again{'.json' if path.suffix == '.json' else '.toml'}"  # YAML takes its time
        again.write_text(DUMPS[again.suffix](config), encoding="utf-8")
        if load_config(again) != config:
            raise Defect(f"what it resolves to is another configuration:\n{again.read_text()}")
        try:
            config = cap(config)
        except ValidationError:
            return "capped"  # the limits broke a relation between settings
        self._run(config)
        return "ran"

    def _run(self, config: RunConfig) -> None:
        split, sets = self.data.train[0], dict.fromkeys(config.data.validation_sets, self.data.validation)
        sources = (split,) * max(1, len(config.data.mixture))
        data = TrainingData(self.data.tokenizer, sources, self.data.validation, sets, self.data.dataset_id)
        run_dir = self.folder / "run"
        is_default = config.runtime.sample == SampleConfig(
            max_new_tokens=4
        )  # sampling takes as long as all the rest
        sampler = None if is_default else make_sampler(config, data.tokenizer)
        trainer = build(config, data, run_dir, sampler=sampler)
        parts = trainer.parts
        try:
            with parts.reporter.running(trainer.state):
                for step in range(2):
                    parts.optimizer.set_lr(multiplier(config.scheduler, step, trainer.state.total_steps))
                    update, limit = parts.loader.next(), config.optimizer.max_grad_norm
                    result = train_step(parts.objective, parts.optimizer, update, limit, parts.loss_scale)
                    if not result.skipped.item() and not math.isfinite(result.loss.item()):
                        raise Defect(f"the loss of a taken step is {result.loss.item()}")
                metrics = parts.evaluate(1)
                canonical_json(parts.snapshot().state)
                if parts.sample is not None:
                    parts.sample()
        finally:
            parts.loader.close()
            shutil.rmtree(run_dir)
        missing = [name for name in ("", *sets) if "/".join(filter(None, ("eval", name, "loss"))) not in metrics]
        if missing:
            raise Defect(f"the evaluation has no loss of {missing}, but {sorted(metrics)}")


def cap(config: RunConfig) -> RunConfig:
    """Return a configuration that a slow core trains in milliseconds; see the top. Raises ValidationError."""
    tree = to_tree(config)
    for section, limits in _MOST.items():
        for key, most in limits.items():
            if tree[section][key] is not None:
                tree[section][key] = min(tree[section][key], most)
    for key, value in _OFF.items():
        _put(tree, key, value)
    model, data, evaluation = tree["model"], tree["data"], tree["runtime"]["evaluation"]
    model["num_key_value_heads"] = math.gcd(model["num_attention_heads"], model["num_key_value_heads"])
    if int(model["head_dim"] * model["partial_rotary_factor"]) % 2:
        model["partial_rotary_factor"] = 1.0
    for stage in data["batch_ramp"]:
        stage["global_batch_size"] = min(stage["global_batch_size"], 16)
    if tree["runtime"]["sample"] is not None:
        tree["runtime"]["sample"]["max_new_tokens"] = min(tree["runtime"]["sample"]["max_new_tokens"], 4)
    if evaluation["best"] is not None:
        evaluation["best"]["directory"] = None
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
