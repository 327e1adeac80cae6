r"""Chats are encoded as ChatML; the mask marks the tokens that are learned.

    <|endoftext|> <|im_start|> user\nHow are you? <|im_end|> \n <|im_start|> assistant\nFine. <|im_end|> \n
          0             0              0               0      0       0           0     1        1       0

Role, line end and content are encoded as one text, as by the chat template. A token across line end and content is
not learned: when the model answers, the prompt ends with the line end. Names of special tokens in a content are
plain text, which a template cannot do.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from candlewick.errors import TokenizerError
from candlewick.tokenizer.bpe import Tokenizer

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)
ANSWER: Role = "assistant"


class ChatTokens:
    """Knows the ids around messages and the header of a message. Raises TokenizerError without chat tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        if tokenizer.chat_ids is None:
            raise TokenizerError(
                "the tokenizer has no tokens for chats", "prepare chat data with it: data.format: chat adds them"
            )
        self.start_id, self.end_id = tokenizer.chat_ids
        newline = tokenizer.encode("\n")
        if [tokenizer.token_bytes(token) for token in newline] != [b"\n"] or tokenizer.missing_bytes:
            raise TokenizerError(
                "the tokenizer is not one for chats: it changes text, or a line end is not one token of it",
                "train one with `candlewick tokenizer train`",
            )
        (self.newline_id,) = newline
        sizes = (len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size))
        self._bytes = np.fromiter(sizes, np.int64, tokenizer.vocab_size)

    def header_tokens(self, ids: NDArray[np.integer], role: Role) -> int:
        r"""Return how many of the ids of "role\ncontent" hold a byte of "role\n"."""
        size = len(role) + 1
        return int(np.searchsorted(np.cumsum(self._bytes[ids[:size]]), size)) + 1


def message_text(role: str, content: str) -> str:
    """Return the text of a message between the two special tokens."""
    return f"{role}\n{content}"


def encode_chat(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = False
) -> tuple[list[int], list[int]]:
    """Return the ids of a conversation and its mask, 1 for learned ids, else 0. Raises TokenizerError."""
    chat = ChatTokens(tokenizer)
    ids, mask = [tokenizer.delimiter_id], [0]
    for message in messages:
        message_ids = tokenizer.encode(message_text(message["role"], message["content"]))
        ids += [chat.start_id, *message_ids, chat.end_id, chat.newline_id]
        learned = 0
        if message["role"] == ANSWER:
            learned = len(message_ids) - chat.header_tokens(np.array(message_ids), ANSWER) + 1
        mask += [0] * (len(message_ids) + 2 - learned) + [1] * learned + [0]
    if add_generation_prompt:
        prompt = [chat.start_id, *tokenizer.encode(message_text(ANSWER, ""))]
        ids, mask = ids + prompt, mask + [0] * len(prompt)
    elif tokenizer.end_id is not None:
        ids, mask = [*ids, tokenizer.end_id], [*mask, 0]
    return ids, mask
