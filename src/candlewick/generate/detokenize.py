"""From a stream of token ids to a stream of text, never half a character.

    ids   12      7       201       44          a byte-level token may end inside a character,
    text  "Hel"   "lo "   (waits)   "é!"        whose first byte alone decodes to U+FFFD

Tokens wait while their text ends in U+FFFD, because the next token may complete the character. Where the text does
not, it ends on a whole character, so decoding goes on from there as if the stream began: no token is decoded twice
once its text is out. A model that writes bytes that are no text waits for one that is, or for the end.
"""

from collections.abc import Callable, Iterable, Iterator


def detokenize(tokens: Iterable[int], decode: Callable[[list[int]], str]) -> Iterator[str]:
    """Yield text as soon as it is certain; joined, it is `decode` of all tokens. Empty pieces are left out."""
    waiting: list[int] = []
    for token in tokens:
        waiting.append(token)
        text = decode(waiting)
        if not text.endswith("\ufffd"):
            waiting.clear()
            if text:
                yield text
    if waiting:
        yield decode(waiting)
