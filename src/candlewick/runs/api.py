"""The Python API, which `candlewick` names: each call does what a verb of the command line does.

    model = candlewick.train("notes.txt", "runs/notes", seconds=60)      candlewick.load("runs/notes")
    model.generate("Dear ")   model.chat("Who are you?")   model.evaluate("letters/").bits_per_byte

Paths may be text or `Path`; relative ones start at the current folder. Text to read is a file, a folder,
`stdlib://` or `hf://datasets/OWNER/NAME`; a model is a run, a checkpoint or `hf://OWNER/NAME`. Every error is a
CandlewickError.
"""

import difflib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypedDict, Unpack, overload

from candlewick.checkpoint.load import build_model
from candlewick.checkpoint.open import Checkpoint
from candlewick.config import DataConfig, RunConfig, SampleConfig
from candlewick.config.load import load_config
from candlewick.config.plain_settings import PLAIN, plain_overrides
from candlewick.errors import ConfigError
from candlewick.generate.continuing import ContinuingEngine
from candlewick.generate.engine import Engine, TextGeneration
from candlewick.parallel.device import find_device
from candlewick.runs.chat import fit_messages
from candlewick.runs.datasets import prepare_dataset
from candlewick.runs.evaluate import evaluate_model
from candlewick.runs.generate import TextGenerator
from candlewick.runs.orchestrate import orchestrate
from candlewick.runs.prepare import prepare_tokenizer
from candlewick.runs.start import find_model
from candlewick.runs.tokenizer import holds_tokenizer
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.train.objective import NextTokenLoss

Text = str | Path | Sequence[str | Path]
Messages = str | Sequence[Mapping[str, str]]
"""A message of the user, or {"role": "user", "content": "..."}, ...; roles: system, user, assistant, tool."""

logger = logging.getLogger(__name__)

_PLACE = re.compile(r"\S+://\S+|[\w.~-]*[/\\]\S*|[\w-]+\.\w{1,8}", re.ASCII)  # what names no text, but a file
_SECONDS = 60


class Sampling(TypedDict, total=False):
    """How to sample; by default as the model's generation_config.json says, else as `candlewick generate` does."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    stop: tuple[str, ...]


class Settings(TypedDict, total=False):
    """Settings of a run by plain names, as the flags of `candlewick train`; at most one of the first four."""

    steps: int
    seconds: float
    epochs: float
    tokens: int
    lr: float
    batch: int
    context: int
    layers: int
    hidden: int
    vocab_size: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures of a model on a text; they do not depend on how it is cut into batches."""

    loss: float
    """Nats per token."""
    perplexity: float
    bits_per_byte: float
    """Compares models with different tokenizers."""
    accuracy: float
    """Share of tokens that the model finds the most likely ones."""
    tokens: int


@dataclass(frozen=True, slots=True)
class PreparedText:
    """A token dataset on the disk, which `train` reads in the place of its text."""

    path: Path
    id: str
    train_tokens: int
    validation_tokens: int
    reused: bool
    """Whether it was there already."""


class Model:
    """A loaded model. `load` and `train` return it."""

    def __init__(self, checkpoint: Checkpoint, device: str = "auto") -> None:
        self.path = checkpoint.folder
        """The folder of its checkpoint."""
        self.tokenizer: Tokenizer = checkpoint.tokenizer
        """Its tokenizer: `encode(text)` and `decode(ids)`."""
        self.metrics: dict[str, float] = {}
        """After `train`: loss, perplexity, bits_per_byte, ... on all that was held out."""
        self._checkpoint = checkpoint
        self._model = build_model(checkpoint, find_device(device))
        self._generator = TextGenerator(Engine(self._model, self.tokenizer.vocab_size), self.tokenizer)
        self._chat = ContinuingEngine(self._model, self.tokenizer.vocab_size)

    def __repr__(self) -> str:
        numbers = sum(parameter.numel() for parameter in self._model.parameters())
        return f"<candlewick.Model {self.path}: {numbers:,} parameters, context {self._chat.max_positions:,}>"

    @cached_property
    def config(self) -> RunConfig:
        """All settings of its run; of a model of another program only `model` says something."""
        return self._checkpoint.config or RunConfig(model=self._checkpoint.shape[0])

    @overload
    def generate(
        self, prompt: str = "", *, stream: Literal[False] = False, seed: int = 0, **sampling: Unpack[Sampling]
    ) -> str: ...
    @overload
    def generate(
        self, prompt: str = "", *, stream: Literal[True], seed: int = 0, **sampling: Unpack[Sampling]
    ) -> Iterator[str]: ...
    def generate(
        self, prompt: str = "", *, stream: bool = False, seed: int = 0, **sampling: Unpack[Sampling]
    ) -> str | Iterator[str]:
        """Return the text that the model writes after a prompt; with `stream` yield it piece by piece.

        An empty prompt begins a document. The same seed gives the same text. Raises ConfigError for a prompt that
        is longer than the context and for a value that cannot be.
        """
        text = self._generator.stream(prompt, self._sampling(sampling), seed, is_chat=False)
        return iter(text) if stream else "".join(text)

    @overload
    def chat(
        self, messages: Messages, *, stream: Literal[False] = False, seed: int = 0, **sampling: Unpack[Sampling]
    ) -> str: ...
    @overload
    def chat(
        self, messages: Messages, *, stream: Literal[True], seed: int = 0, **sampling: Unpack[Sampling]
    ) -> Iterator[str]: ...
    def chat(
        self, messages: Messages, *, stream: bool = False, seed: int = 0, **sampling: Unpack[Sampling]
    ) -> str | Iterator[str]:
        """Return the answer to a message of the user, or to a conversation; with `stream` yield it piece by piece.

        The oldest turns are left out if there is no room for them. What was computed for a conversation serves the
        next call that continues it. Raises TokenizerError for a model that was not trained on chats, ConfigError.
        """
        config, context = self._sampling(sampling), self._chat.max_positions
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        ids, _ = fit_messages(self.tokenizer, turns, context - min(config.max_new_tokens, context // 2))
        text = TextGeneration(self._chat, self.tokenizer, ids, config, seed=seed)
        return iter(text) if stream else "".join(text)

    def evaluate(self, text: Text | None = None, *, max_tokens: int | None = None) -> Evaluation:
        """Measure the model on a text, on files, or on what its run held out.

        Text is a string that names no file; `max_tokens` are spread over it. Raises DataError for text that cannot
        be read, CheckpointError if nothing is given and the run's text is not known.
        """
        with TemporaryDirectory(prefix="candlewick-") as folder:
            is_plain = False
            if isinstance(text, str) and not _names_place(text):
                is_plain, file = True, Path(folder, "text.txt")
                file.write_bytes(text.encode(errors="surrogatepass"))
                text = file
            sources = () if text is None else _absolute(text)
            data = DataConfig(train_shards=sources, cache_dir=Path(folder, "cache"))
            objective = NextTokenLoss(self._model, num_tokens=self.tokenizer.vocab_size)
            metrics = evaluate_model(self._checkpoint, objective, data, max_tokens=max_tokens, is_plain=is_plain)
        names = ("loss", "perplexity", "bits_per_byte", "accuracy")
        tokens = int(metrics["eval/tokens"])
        return Evaluation(**{name: metrics[f"eval/{name}"] for name in names}, tokens=tokens)

    def _sampling(self, given: Mapping[str, Any]) -> SampleConfig:
        names = Sampling.__annotations__
        if unknown := next((name for name in given if name not in names), None):
            matches = difflib.get_close_matches(unknown, names, 1)
            fix = f"did you mean {matches[0]}?" if matches else f"give {', '.join(names)}"
            raise ConfigError(f"there is no setting {unknown!r} of sampling", fix)
        return self._generator.sampling({"max_new_tokens": 256, **given})


def load(path: str | Path, *, device: str = "auto") -> Model:
    """Load a model: a run (its newest checkpoint), a checkpoint, or hf://OWNER/NAME@REVISION.

    Raises CheckpointError if there is none, MachineError without the device or the network.
    """
    return Model(Checkpoint.open(_find_folder(path), need={"weights"}), device)


def train(
    text: Text,
    run_dir: str | Path,
    *,
    config: str | Path = "demo",
    overrides: Mapping[str, object] | None = None,
    **settings: Unpack[Settings],
) -> Model:
    """Train a model on text, and return it with its `metrics`: tokenizer, tokens, run and evaluation in `run_dir`.

    `config` is a profile or a file; without an end the profile `demo` takes 60 seconds. `overrides` are settings
    by their keys, {"optimizer.learning_rate": 1e-3}. The same call again finds everything done; with a later end
    it goes on. Raises ConfigError for settings that cannot be, DataError for text of no use, RunInterrupted after
    Ctrl-C.
    """
    given: dict[str, object] = {**settings}
    ends = [key for name, key in PLAIN.items() if given.get(name) is not None] + list(overrides or ())
    if config == "demo" and not any(key.startswith("scheduler.total_") for key in ends):
        given["seconds"] = _SECONDS
    run_config = _load_config(config, {"data.train_shards": _absolute(text), **(overrides or {})}, given)
    result = orchestrate(run_config, Path(run_dir).expanduser(), logger.info)
    model = load(run_dir, device=run_config.runtime.device)
    model.metrics = {name.removeprefix("eval/"): value for name, value in result["metrics"].items()}
    return model


def prepare(
    text: Text,
    output: str | Path,
    tokenizer: str | Path | None = None,
    *,
    vocab_size: int | None = None,
    overrides: Mapping[str, object] | None = None,
) -> PreparedText:
    """Encode text into the token dataset `output`, from which runs train; it is not made again.

    `tokenizer` is a folder, a run, a checkpoint or hf://OWNER/NAME; without it one of `vocab_size` tokens is
    trained on the text. Raises ConfigError, DataError for text of no use, ArtifactError for another folder.
    """
    if tokenizer is not None and vocab_size is not None:
        raise ConfigError("a tokenizer that is given has its own vocab_size", "give one of them")
    settings = {"vocab_size": vocab_size}
    config = _load_config(None, {"data.train_shards": _absolute(text), **(overrides or {})}, settings)
    with TemporaryDirectory(prefix="candlewick-") as folder:
        if tokenizer is None:
            source = Path(folder, "tokenizer")
            prepare_tokenizer(config, source)
        else:
            source = _find_folder(tokenizer)
            if not source.is_file() and not holds_tokenizer(source):
                source = Checkpoint.open(source, need=()).folder
        made = prepare_dataset(config, Path(output).expanduser(), source)
    tokens = {split: counts["tokens"] for split, counts in made["details"]["splits"].items()}
    return PreparedText(Path(output), made["id"], tokens["train"], tokens["validation"], made["reused"])


def _find_folder(path: str | Path) -> Path:
    return find_model(str(path))[1].expanduser()


def _load_config(
    config: str | Path | None, overrides: Mapping[str, object], settings: Mapping[str, object]
) -> RunConfig:
    given = [f"{key}={json.dumps(value, default=_as_text)}" for key, value in overrides.items()]
    plain = plain_overrides(settings, load_config(config), given)
    return load_config(config, [*plain, *given])


def _as_text(value: object) -> str:
    return str(value.expanduser().absolute() if isinstance(value, Path) else value)


def _absolute(text: Text) -> tuple[str, ...]:
    sources = [text] if isinstance(text, str | Path) else text
    return tuple(source if "://" in str(source) else _as_text(Path(source)) for source in map(str, sources))


def _names_place(text: str) -> bool:
    """Return whether a string is a path or an address, and not text."""
    try:
        return bool(_PLACE.fullmatch(text)) or (len(text) < 4096 and Path(text).exists())
    except (OSError, ValueError):
        return False
