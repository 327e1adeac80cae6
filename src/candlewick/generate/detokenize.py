"""From a stream of token ids to a stream of text, without half characters and without parts of stop texts.

    ids         12      7       201       44        a byte-level token may end inside a character,
    text        "Hel"   "lo "   (waits)   "é!"      whose first byte alone decodes to U+FFFD
    stop "!!"   "Hel"   "lo "             "é"       text that may become a stop text waits too

A text that does not end in U+FFFD ends on a complete character, so the next tokens are decoded without the
previous ones. Of several stop texts, the one that is complete first ends the text: token borders do not matter.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Literal


class TextStream:
    """Decodes tokens one by one. It stops at a stop token, or before a stop text."""

    def __init__(
        self, decode: Callable[[list[int]], str], *, stop_ids: Collection[int] = (), stops: Sequence[str] = ()
    ) -> None:
        self._decode, self._stop_ids, self._stops = decode, stop_ids, stops
        self._tokens: list[int] = []
        self._pending = ""
        self.stop: Literal["end", "text"] | None = None
        """What it stopped at: a stop token, a stop text; None: nothing yet."""

    def push(self, token: int) -> str:
        """Add a token; return the text that later tokens cannot change. Once stopped, push no more."""
        if token in self._stop_ids:
            text = self.flush()
            self.stop = self.stop or "end"
            return text
        self._tokens.append(token)
        text = self._decode(self._tokens)
        if text.endswith("\ufffd"):
            return ""
        self._tokens.clear()
        return self._release(text)

    def flush(self) -> str:
        """Return the pending text, after the last token."""
        text = self._release(self._decode(self._tokens) if self._tokens else "")
        return text if self.stop else text + self._pending

    def _release(self, text: str) -> str:
        """Add text to the pending text; return it up to a stop text, or up to what may become one."""
        text = self._pending + text
        matches = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if matches:
            self.stop = "text"
            return text[: min(matches)[1]]
        longest = max(map(len, self._stops), default=1) - 1
        tails = (text[-length:] for length in range(min(longest, len(text)), 0, -1))
        self._pending = next((tail for tail in tails if any(stop.startswith(tail) for stop in self._stops)), "")
        return text[: len(text) - len(self._pending)]
