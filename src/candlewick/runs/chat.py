"""Turns with a model: a conversation if its tokenizer has tokens for chats, else a text that both write.

    system  user  assistant  user  assistant  user   --encode-->  prompt  --ContinuingEngine-->  assistant
    `stays' `---- the oldest turn goes first ----'

A prompt leaves room for the answer, at most half of the context. A text loses its beginning, in steps of an eighth
of the context, so that what is computed serves several turns.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from candlewick.config import SampleConfig
from candlewick.errors import ConfigError
from candlewick.generate.continuing import ContinuingEngine
from candlewick.generate.engine import StopReason, TextGeneration
from candlewick.parallel.env import read_ranks
from candlewick.runs.generate import TextGenerator
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.chat import ANSWER, ROLES, encode_chat


def fit_messages(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], max_tokens: int
) -> tuple[list[int], int]:
    """Return the ids of a conversation that waits for an answer, and how many of its oldest turns were left out.

    A turn begins with a message of the user; what stands before the first stays, and the last turn does. Raises
    ConfigError for messages of another form, TokenizerError without tokens for chats.
    """
    for message in messages:
        if set(message) != {"role", "content"} or message["role"] not in ROLES:
            shape = '{"role": "user", "content": "..."}'
            raise ConfigError(f"{str(message)[:80]} is no message", f"write {shape}; roles are {', '.join(ROLES)}")
    if not messages or messages[-1]["role"] == ANSWER:
        raise ConfigError("there is no message to answer", "let a message of the user come last")
    starts = [i for i, message in enumerate(messages) if message["role"] == "user"] or [0]
    for dropped, start in enumerate(starts):
        kept = [*messages[: starts[0]], *messages[start:]]
        ids = encode_chat(tokenizer, kept, add_generation_prompt=True)[0]
        if len(ids) <= max_tokens or start == starts[-1]:
            return ids, dropped
    raise AssertionError("the last turn stays")


class Conversation:
    """The turns so far. With `is_chat` they are messages; else the texts of a base model, the current one last.

    Raises ConfigError for a system message to a base model, MachineError in one of several processes.
    """

    def __init__(self, generator: TextGenerator, system: str | None = None) -> None:
        read_ranks()
        self.tokenizer, engine = generator.tokenizer, generator.engine
        self.is_chat = self.tokenizer.chat_ids is not None
        if system is not None and not self.is_chat:
            raise ConfigError("this model has no tokens for chats, so no system message", "leave --system out")
        self._engine = ContinuingEngine(engine.model, engine.num_tokens, engine.page_size)
        self._system = [{"role": "system", "content": system}] if system else []
        self.reset()

    def reset(self) -> None:
        """Forget all but the system message."""
        self.messages, self.texts = list(self._system), [""]
        self.num_answers = self.num_left_out = 0
        """Answers so far, and what the last prompt left out for want of room: turns, or tokens of a text."""

    def ask(self, text: str, config: SampleConfig, seed: int) -> TextGeneration:
        """Return the answer to what the user writes, as it is made; nothing is kept yet.

        Raises ConfigError if there is no room for what the user writes.
        """
        context = self._engine.max_positions
        room = context - min(config.max_new_tokens, context // 2)
        if self.is_chat:
            messages = [*self.messages, {"role": "user", "content": text}]
            ids, self.num_left_out = fit_messages(self.tokenizer, messages, room)
        else:
            ids = [self.tokenizer.delimiter_id, *self.tokenizer.encode(self.texts[-1] + text)]
            step = max(1, context // 8)
            self.num_left_out = -(-max(0, len(ids) - room) // step) * step
            ids = ids[self.num_left_out :]
        return TextGeneration(self._engine, self.tokenizer, ids, config, seed=seed + self.num_answers)

    def keep(self, text: str, answer: str, stop: StopReason | None) -> None:
        """Add what the user wrote and the answer, as far as it came. After a text that ended a new one begins."""
        self.num_answers += 1
        if self.is_chat:
            self.messages += [{"role": "user", "content": text}, {"role": ANSWER, "content": answer}]
            return
        self.texts[-1] += text + answer
        if stop == "end":
            self.texts.append("")

    def save(self, path: Path) -> int:
        """Append the conversation to JSON lines for `data.format: chat`, or the texts; return the rows."""
        rows: list[dict[str, object]] = [{"text": text} for text in self.texts if text]
        if self.num_answers and self.is_chat:
            rows = [{"messages": self.messages}]
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return len(rows)
