"""Parser of chats: a row -> the messages of a conversation.

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}      ShareGPT
    {"prompt": "...", "completion": "..."}          texts, or lists of messages

Roles are system, user, assistant and tool, in any order; the names of other formats for them are read. A content
may be a list of parts of text. Calls of tools become the text that Hermes writes for them, behind the content.
Other keys of a row or a message are not read.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple, cast

from candlewick.tokenizer.chat import ANSWER, ROLES, Role, message_text

Row = dict[str, object]
_OTHER_FIELDS = ("messages", "conversations", "conversation")
_ROLES: dict[str, Role] = {
    **{role: role for role in ROLES},
    "human": "user",
    "gpt": ANSWER,
    "chatgpt": ANSWER,
    "model": ANSWER,
    "bot": ANSWER,
    "function": "tool",
    "observation": "tool",
}


class Message(NamedTuple):
    """A speaker and a text."""

    role: Role
    content: str


def has_conversation(row: Row, field: str) -> bool:
    """Return whether a row has a column with a conversation."""
    return _find_field(row, field) is not None or {"prompt", "completion"} <= row.keys()


def parse_messages(record: object, field: str) -> list[Message]:
    """Return the messages of a row. Raises ValueError that names the first problem of the row."""
    row = cast(Row, record) if isinstance(record, dict) else {}
    name = _find_field(row, field)
    if name is None and {"prompt", "completion"} <= row.keys():
        return [*_parse_side(row["prompt"], "user"), *_parse_side(row["completion"], ANSWER)]
    turns = row[name] if name is not None else None
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"no list of messages under {field!r}, only {', '.join(row)[:200] or 'none'}")
    return _parse_list(cast("list[object]", turns))


def _find_field(row: Row, field: str) -> str | None:
    return next((name for name in (field, *_OTHER_FIELDS) if isinstance(row.get(name), list)), None)


def _parse_side(value: object, role: Role) -> list[Message]:
    if isinstance(value, str):
        return [Message(role, value)]
    if isinstance(value, list):
        return _parse_list(cast("list[object]", value))
    raise ValueError(f"prompt or completion is {str(value)[:80]}, not text")


def _parse_list(turns: list[object]) -> list[Message]:
    messages: list[Message] = []
    for number, item in enumerate(turns, 1):
        turn = cast(Row, item) if isinstance(item, dict) else {}
        name, content = turn.get("role") or turn.get("from"), _parse_content(turn)
        if not isinstance(name, str) or content is None:
            raise ValueError(f"message {number} is {str(item)[:80]}, not a role and a content of text")
        role = _ROLES.get(name)
        if role is None:
            raise ValueError(f"message {number} has role {name[:40]!r}, not one of {', '.join(ROLES)}")
        messages.append(Message(role, content))
    return messages


def _parse_content(turn: Row) -> str | None:
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    if isinstance(content, list):
        parts = cast("list[object]", content)
        texts = [cast(Row, part).get("text") if isinstance(part, dict) else None for part in parts]
        content = "".join(cast("list[str]", texts)) if all(isinstance(text, str) for text in texts) else texts
    calls = _describe_calls(turn.get("tool_calls"))
    if calls is not None and (content is None or isinstance(content, str)):
        return f"{content}\n{calls}" if content else calls
    return content if isinstance(content, str) else None


def _describe_calls(calls: object) -> str | None:
    if not isinstance(calls, list) or not calls:
        return None
    texts: list[str] = []
    for call in cast("list[object]", calls):
        function = cast(Row, call).get("function", cast(Row, call)) if isinstance(call, dict) else None
        if not isinstance(function, dict):
            return None
        said = {key: cast(Row, function).get(key) for key in ("name", "arguments")}
        texts.append(f"<tool_call>\n{json.dumps(said, ensure_ascii=False, default=str)}\n</tool_call>")
    return "\n".join(texts)


def chat_columns(names: Sequence[str], field: str) -> list[str]:
    """Return the columns of a table that hold its conversations."""
    found = next((name for name in (field, *_OTHER_FIELDS) if name in names), None)
    if found is None and {"prompt", "completion"} <= set(names):
        return ["prompt", "completion"]
    return [found or field]


def chat_text(messages: list[Message]) -> str:
    """Return a text that stands for a conversation: all that is said but by the system."""
    return "\n".join(message_text(role, content) for role, content in messages if role != "system")
