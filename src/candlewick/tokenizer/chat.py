r"""Conversations as tokens, in the form that is known as ChatML, and which of the tokens are learned.

    <|endoftext|> <|im_start|> user\nHow are you? <|im_end|> \n <|im_start|> assistant\nFine. <|im_end|> \n
          0             0              0               0      0       0           0     1        1       0

Role, line end and content are encoded as one text, as the chat template does it. A token that goes over from the
line end into the content is not learned: when the model answers, the prompt ends with the line end. The names of
special tokens in a content are plain text; a template cannot do that.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from candlewick.errors import TokenizerError
from candlewick.tokenizer.bpe import Tokenizer

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)
ANSWER: Role = "assistant"


class ChatTokens:
    """The ids around messages, and where in the ids of a message its content begins. Raises TokenizerError."""

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
    """Return what is encoded as one text between the two special tokens."""
    return f"{role}\n{content}"


def encode_chat(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = False
) -> tuple[list[int], list[int]]:
    """Return the ids of a conversation, and 1 for each that is learned, else 0. Raises TokenizerError."""
    chat = ChatTokens(tokenizer)
    ids, mask = [tokenizer.delimiter_id], [0]
    for message in messages:
        own = tokenizer.encode(message_text(message["role"], message["content"]))
        ids += [chat.start_id, *own, chat.end_id, chat.newline_id]
        learned = 0
        if message["role"] == ANSWER:
            learned = len(own) - chat.header_tokens(np.array(own), ANSWER) + 1
        mask += [0] * (len(own) + 2 - learned) + [1] * learned + [0]
    if add_generation_prompt:
        prompt = [chat.start_id, *tokenizer.encode(message_text(ANSWER, ""))]
        ids, mask = ids + prompt, mask + [0] * len(prompt)
    elif tokenizer.end_id is not None:
        ids, mask = [*ids, tokenizer.end_id], [*mask, 0]
    return ids, mask
