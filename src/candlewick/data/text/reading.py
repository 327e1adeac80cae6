"""How files become documents: the part of the settings that readers get."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from candlewick.config import DataConfig
from candlewick.data.text.file_ranges import BLOCK_BYTES

_MIN_EXPANDED_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Reading:
    """How files become documents."""

    format: Literal["text", "chat", "tokens"] = "text"
    documents: Literal["file", "line"] = "file"
    field: str = "text"  # of the text, or of a chat's messages
    bad_utf8: Literal["error", "replace", "skip"] = "replace"
    bad_rows: Literal["error", "skip"] = "error"
    max_document_bytes: int = 256 << 20  # of a row
    max_expansion: int = 1000
    token_dtype: Literal["uint16", "uint32"] = "uint16"  # of files of tokens
    block_bytes: int = BLOCK_BYTES  # that are read at a time

    @classmethod
    def from_config(cls, config: DataConfig) -> Self:
        """Return the settings of reading in a config."""
        field = config.messages_field if config.format == "chat" else config.text_field
        limits = config.max_document_bytes, config.max_expansion
        rules = config.bad_utf8, config.bad_rows, *limits, config.token_dtype
        return cls(config.format, config.documents, field, *rules)

    def identity(self) -> dict[str, Any]:
        """Return what decides the documents, for recipes: all fields but those that are named here."""
        without_effect = {
            "block_bytes": True,
            "max_expansion": True,  # a text that expands more is an error
            "max_document_bytes": self.bad_rows == "error",  # as a larger row is then
            "token_dtype": self.format != "tokens",
        }
        return {name: value for name, value in asdict(self).items() if not without_effect.get(name, False)}

    def max_text_bytes(self, file_bytes: int) -> int:
        """Return how many bytes of text a compressed file of a size may hold."""
        return max(_MIN_EXPANDED_BYTES, self.max_expansion * file_bytes)
