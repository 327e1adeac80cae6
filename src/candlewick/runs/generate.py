"""Text from a checkpoint: one text as it is written, or several texts in the order of their prompts."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from candlewick.checkpoint.generation import SAMPLING_FIELDS
from candlewick.checkpoint.load import load_for_inference
from candlewick.config import SampleConfig
from candlewick.errors import CheckpointError, ConfigError, DataError
from candlewick.generate.batch import Job, generate_texts
from candlewick.generate.engine import Engine, TextGeneration
from candlewick.generate.speculative import SpeculativeEngine
from candlewick.parallel.device import find_device
from candlewick.runs.start import find_model
from candlewick.terminal import track
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.chat import encode_chat

logger = logging.getLogger(__name__)


def read_prompts(path: Path) -> list[str]:
    """Return each line of a .txt file, or its "prompt" of a .jsonl file. Raises ConfigError and DataError."""
    kind = path.suffix.lower()
    if kind not in (".txt", ".jsonl"):
        raise ConfigError(f"{path} is not a file of prompts", "give a .txt or .jsonl file")
    fix = 'each .jsonl line is {"prompt": "..."}'
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        lines = lines if lines[-1] else lines[:-1]
        prompts = [json.loads(line)["prompt"] for line in lines] if kind == ".jsonl" else lines
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} holds no prompts: {type(error).__name__} {error}", fix) from None
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise DataError(f'{path}: a "prompt" is not text', fix)
    return prompts


@dataclass(frozen=True, slots=True)
class TextGenerator:
    """A loaded model that continues prompts, or answers them as the first message of a chat."""

    engine: Engine
    tokenizer: Tokenizer

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        device: str,
        *,
        draft: Path | None = None,
        draft_tokens: int = 4,
        page_size: int | None = None,
    ) -> Self:
        """Load a checkpoint, a run's or hf://OWNER/NAME, and a draft model.

        Raises CheckpointError unless both have the same tokenizer.
        """
        torch_device = find_device(device)
        model, tokenizer = load_for_inference(find_model(str(checkpoint))[1], torch_device)
        if draft is None:
            return cls(Engine(model, tokenizer.vocab_size, page_size), tokenizer)
        draft_model, other = load_for_inference(draft, torch_device)
        if other.sha256 != tokenizer.sha256:
            raise CheckpointError(
                f"{draft} has the tokenizer {other.sha256[:16]}, {checkpoint} has {tokenizer.sha256[:16]}",
                "draft with a model that was trained with the same tokenizer",
            )
        engine = SpeculativeEngine(model, draft_model, tokenizer.vocab_size, draft_tokens, page_size)
        return cls(engine, tokenizer)

    def sampling(self, given: Mapping[str, Any]) -> SampleConfig:
        """Return how to sample: as `given`, else as generation_config.json of the model says, else as by default.

        Raises ConfigError for a value that cannot be.
        """
        values = model_sampling(self.tokenizer.generation)
        values = {name: value for name, value in values.items() if name not in given}
        try:
            config = SampleConfig().replaced(**values)
        except ConfigError as error:
            raise ConfigError(f"generation_config.json: {error.problem}", "give other values as flags") from None
        if different := {name: value for name, value in values.items() if value != getattr(SampleConfig(), name)}:
            words = ", ".join(f"{name} {value}" for name, value in different.items())
            logger.info("sampling as generation_config.json says: %s", words)
        return config.replaced(**given)

    def stream(self, prompt: str, config: SampleConfig, seed: int, *, is_chat: bool) -> TextGeneration:
        """Return the text after one prompt, which comes piece by piece. Raises ConfigError if it is too long."""
        return TextGeneration(self.engine, self.tokenizer, self._encode(prompt, is_chat), config, seed=seed)

    def generate(
        self,
        prompts: Sequence[str],
        config: SampleConfig,
        seeds: Sequence[int],
        *,
        is_chat: bool,
        logprobs: int | None,
    ) -> Iterator[dict[str, Any]]:
        """Yield `prompt` and the result of `generate_texts`, for each prompt and each seed, in order.

        Raises ConfigError for a prompt that is too long, before the first text.
        """
        jobs = [Job(ids, seed) for ids in [self._encode(prompt, is_chat) for prompt in prompts] for seed in seeds]
        texts = generate_texts(self.engine, self.tokenizer, jobs, config, logprobs)
        for number, result in _in_order(track(texts, "texts", len(jobs))):
            yield {"prompt": prompts[number // len(seeds)], **result}

    def _encode(self, prompt: str, is_chat: bool) -> list[int]:
        if is_chat:
            messages = [{"role": "user", "content": prompt}]
            return encode_chat(self.tokenizer, messages, add_generation_prompt=True)[0]
        return [self.tokenizer.delimiter_id, *self.tokenizer.encode(prompt)]


def model_sampling(generation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of sampling that entries of generation_config.json mean to transformers.

    Without a word of sampling ours are left, where transformers takes the most likely token always.
    """
    defaults = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    values = defaults if SAMPLING_FIELDS & generation.keys() else {}
    values = values | {name: generation[name] for name in defaults.keys() & generation.keys()}
    if generation.get("do_sample") is False:
        values["temperature"] = 0.0
    off = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
    return {name: None if name in off and value == off[name] else value for name, value in values.items()}


def _in_order(results: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield numbered results, which come in any order, in the order of their numbers from 0 on."""
    waiting: dict[int, dict[str, Any]] = {}
    next_number = 0
    for number, result in results:
        waiting[number] = result
        while next_number in waiting:
            yield next_number, waiting.pop(next_number)
            next_number += 1
