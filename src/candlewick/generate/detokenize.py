"""From a stream of token ids to a stream of text: never half a character, never a part of a stop text.

    ids         12      7       201       44        a byte-level token may end inside a character,
    text        "Hel"   "lo "   (waits)   "é!"      whose first byte alone decodes to U+FFFD
    stop "!!"   "Hel"   "lo "             "é"       what may become a stop text waits too

Where a text does not end in U+FFFD it ends on a whole character, so decoding goes on from there as if the stream
began. Of several stop texts the one that is complete first ends the text: token borders do not matter.
"""

from collections.abc import Callable, Collection, Sequence


class TextStream:
    """Takes tokens one by one and gives out text. It stops at a stop token, or before a stop text."""

    def __init__(
        self, decode: Callable[[list[int]], str], *, stop_ids: Collection[int] = (), stops: Sequence[str] = ()
    ) -> None:
        self._decode, self._stop_ids, self._stops = decode, stop_ids, stops
        self._tokens: list[int] = []
        self._held = ""
        self.is_stopped = False

    def push(self, token: int) -> str:
        """Return the text that is certain now; once stopped, push no more."""
        if token in self._stop_ids:
            text = self.flush()
            self.is_stopped = True
            return text
        self._tokens.append(token)
        text = self._decode(self._tokens)
        if text.endswith("\ufffd"):
            return ""
        self._tokens.clear()
        return self._release(text)

    def flush(self) -> str:
        """Return the text that was held back, after the last token."""
        text = self._release(self._decode(self._tokens) if self._tokens else "")
        return text if self.is_stopped else text + self._held

    def _release(self, text: str) -> str:
        """Add text to what is held; return it up to a stop text, or up to what may become one."""
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            return text[: min(found)[1]]
        longest = max(map(len, self._stops), default=1) - 1
        tails = (text[-length:] for length in range(min(longest, len(text)), 0, -1))
        self._held = next((tail for tail in tails if any(stop.startswith(tail) for stop in self._stops)), "")
        return text[: len(text) - len(self._held)]
