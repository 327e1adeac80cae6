"""Parser of chats: a row of JSON lines -> the messages of a conversation.

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}

Roles are system, user and assistant, in any order. Other keys of a row or a message are not read.
"""

import hashlib
from typing import NamedTuple, cast

from candlewick.artifacts.manifest import canonical_json
from candlewick.tokenizer.chat import ROLES, Role


class Message(NamedTuple):
    """A speaker and a text."""

    role: Role
    content: str


def parse_messages(record: object, field: str) -> list[Message]:
    """Return the messages of a row. Raises ValueError that names the first problem of the row."""
    fields = cast("dict[str, object]", record) if isinstance(record, dict) else {}
    turns = fields.get(field)
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"no list of messages under {field!r}, only {', '.join(fields)[:200] or 'none'}")
    messages: list[Message] = []
    for number, item in enumerate(cast("list[object]", turns), 1):
        match item:
            case {"role": str(role), "content": str(content)}:
                if role not in ROLES:
                    raise ValueError(f"message {number} has role {role[:40]!r}, not one of {', '.join(ROLES)}")
                messages.append(Message(role, content))
            case _:
                raise ValueError(f"message {number} is {str(item)[:80]}, not a role and a content of text")
    return messages


def chat_sha256(messages: list[Message]) -> str:
    """Return the SHA-256 of a conversation in hex."""
    return hashlib.sha256(canonical_json(messages)).hexdigest()
