"""What many tests share: seeded text, a tokenizer and a token dataset made from it, a tiny run."""

import json
import logging
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch: see cli/environment.py
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # finds candlewick

import pytest
import torch
from tests.hub_server import HubServer
from tests.prepared import dataset_folder, open_data

from candlewick.checkpoint.layout import find_checkpoints
from candlewick.cli.main import main
from candlewick.config import RunConfig
from candlewick.config.tree import dump
from candlewick.runs.orchestrate import orchestrate
from candlewick.runs.train import run_training
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.train import train_tokenizer
from candlewick.train.guards import STOP_SIGNALS
from candlewick.train.monitor import telemetry

CORE_ROWS = pytest.StashKey[list[tuple[str, str, float, float]]]()


def pytest_addoption(parser):
    parser.addoption("--core-rows", metavar="FILE", help="write what `core_row` recorded, as JSON lines")


def pytest_configure(config):
    config.stash[CORE_ROWS] = []


def pytest_sessionfinish(session):
    if (file := session.config.getoption("--core-rows")) is not None:
        rows = sorted(set(session.config.stash[CORE_ROWS]))
        Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def core_row(request):
    """Record how far a mode is from its reference, for docs/core.md: `core_row(mode, reference, error, limit)`."""

    def record(mode: str, reference: str, error: float, limit: float) -> None:
        assert error <= limit, f"{mode}: {error} from {reference}, at most {limit} is allowed"
        request.config.stash[CORE_ROWS].append((mode, reference, float(error), float(limit)))

    return record


torch.set_num_threads(1)  # the models are so small that a second thread only waits

WORDS = (
    "the of and to in is was that for it with as his on be at by had not are but from or have an "
    "they which one you were her all she there would their we him been has when who will more no if "
    "out so said what up its about into than them can only other new some could time these two may "
    "then do first any my now such like our over man "
).split()


def make_text(seed: int, words: int) -> str:
    """Sentences of common words with names and numbers between them: the same on every platform."""
    choose = random.Random(seed)
    out: list[str] = []
    for position in range(words):
        word = choose.choice(WORDS)
        if position % 13 == 0:
            word = word.capitalize()
        if position % 29 == 7:
            word = f"{word}{choose.randrange(100)}"
        out.append(word + (".\n" if position % 17 == 16 else "," if position % 11 == 5 else ""))
    return " ".join(out).replace("\n ", "\n") + "\n"


@pytest.fixture(scope="session")
def text_dir(tmp_path_factory) -> Path:
    """A folder with 12 text files of about 20 kB."""
    folder = tmp_path_factory.mktemp("text")
    for number in range(12):
        (folder / f"{number:02}.txt").write_text(make_text(number, 3500))
    return folder


def tiny_config(text_dir: Path, cache: Path, **sections) -> RunConfig:
    """A model of some thousand parameters on the seeded text; `sections` are merged over it."""
    tree = {
        "model": {"hidden_size": 32, "num_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32},
        "tokenizer": {"vocab_size": 300},
        "data": {
            "train_shards": [str(text_dir)],
            "validation_fraction": 0.1,
            "micro_batch_size": 4,
            "cache_dir": str(cache),
            "num_workers": 1,
        },
        "scheduler": {"total_steps": 12, "warmup_steps": 2},
        "runtime": {
            "device": "cpu",
            "log_every_n_steps": 1,
            "checkpoint": {"every_n_steps": 5},
            "evaluation": {"every_n_steps": 4, "max_tokens": 256},
            "sample": {"max_new_tokens": 8},
            "logging": {"enable_stdout": False, "tensorboard": False},
        },
    }
    for name, values in sections.items():
        tree[name] = {**tree.get(name, {}), **values}
    return RunConfig.model_validate_json(json.dumps(tree))


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """The cache folder that all tiny runs share, so that the text is prepared once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tiny(text_dir, cache):
    """Make tiny configs: `tiny(optimizer={...}, ...)`."""
    return lambda **sections: tiny_config(text_dir, cache, **sections)


@pytest.fixture(scope="session", autouse=True)
def _quick_peak():
    """Take one matrix product for the machine's peak, not a quarter of a second of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(telemetry, "_MEASURE_SECONDS", 0.0)
        yield


@pytest.fixture(autouse=True)
def _process_as_before():
    """Take back what a run leaves in its process: log handlers, whose stream is gone, and a process group."""
    root = logging.getLogger("candlewick")
    before = root.handlers[:], root.level, root.propagate
    yield
    root.handlers[:], root.level, root.propagate = before
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture
def default_signals():
    """Let a test and its processes hear the signals that nohup or a shell's background job has ignored."""
    handlers = dict.fromkeys(STOP_SIGNALS, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
    former = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A tokenizer of 300 tokens."""
    return train_tokenizer([make_text(0, 3500)], vocab_size=300, min_frequency=2, max_train_bytes=1 << 20)[0]


@pytest.fixture
def tokenizer_folder(tokenizer, tmp_path) -> Path:
    """A folder with the tokenizer of 300 tokens and no manifest."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    tokenizer.write(folder)
    return folder


@pytest.fixture(scope="session")
def trained(text_dir, cache, tmp_path_factory) -> Path:
    """The run folder of `tiny()`, trained to its end. For reading only."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    run_training(tiny_config(text_dir, cache), folder, resume=False)
    return folder


@pytest.fixture(scope="session")
def orchestrated(text_dir, cache, tmp_path_factory) -> Path:
    """The run folder of the whole path with `tiny()`. For reading only."""
    folder = tmp_path_factory.mktemp("orchestrated") / "run"
    orchestrate(tiny_config(text_dir, cache), folder, lambda _: None)
    return folder


@pytest.fixture
def tokens(tiny) -> Path:
    """The token dataset of `tiny()`. For reading only."""
    return dataset_folder(open_data(tiny()).train[0])


@pytest.fixture
def trained_copy(trained, tmp_path) -> Path:
    """A run folder of `tiny()`, trained to its end, to damage."""
    return shutil.copytree(trained, tmp_path / "trained")


@pytest.fixture
def chatting(trained, tmp_path) -> Path:
    """A copy of the trained checkpoint with a tokenizer for chats in the rows that were padding."""
    folder = shutil.copytree(find_checkpoints(trained)[0], tmp_path / "chatting")
    (folder / "manifest.json").unlink()
    Tokenizer.load(folder).with_chat_tokens().write(folder)
    return folder


@pytest.fixture
def hub(tmp_path) -> Iterator[HubServer]:
    """A local Hub that `huggingface_hub` in this process asks, with its cache in `tmp_path / "home"`."""
    with HubServer() as server, server.client(tmp_path / "home"):
        yield server


class Printed(NamedTuple):
    """What a command printed on standard output and standard error."""

    out: str
    err: str


@pytest.fixture
def run_candlewick(capsys) -> Callable[..., Printed]:
    """Run a command in this process: `run_candlewick("eval", folder, code=3).err`; it must exit with `code`."""

    def run(*words: object, code: int = 0) -> Printed:
        capsys.readouterr()  # what was printed before
        exit_code = main([str(word) for word in words])
        printed = Printed(*capsys.readouterr())
        assert exit_code == code, printed.err
        return printed

    return run


@pytest.fixture
def config_file(tmp_path):
    """Write a config to a file: `config_file(tiny())`."""

    def write(config: RunConfig, name: str = "config.yaml") -> str:
        path = tmp_path / name
        path.write_text(dump(config, "yaml"))
        return str(path)

    return write
