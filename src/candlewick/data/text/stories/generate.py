"""Story n of a seed is a function of the two numbers alone: bits of SHAKE-256, decoded by the grammar.

    (seed, n) --SHAKE-256--> 1,024 random bits --each choice reads a few--> text

Stories are independent draws, equal in every process and on every machine. None is rejected.
"""

from hashlib import shake_256

from candlewick.data.text.stories.grammar import Item, Word, load_grammar

RANDOM_BYTES = 128  # more than the longest story reads


def write_story(seed: int, number: int) -> str:
    """Return a story."""
    digest = shake_256(f"candlewick story {seed} {number}".encode()).digest(RANDOM_BYTES)
    random = int.from_bytes(digest, "little")
    facts: dict[str, int] = {}
    parts: list[str] = []
    stack: list[Item] = [load_grammar().story]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            parts.append(item)
            continue
        is_word = isinstance(item, Word)
        if is_word and item.fact is not None and (known := facts.get(item.fact)) is not None:
            parts.append(item.texts[known])
            continue
        # the truncated binary code, see `grammar.code_length`
        count = len(item.texts if is_word else item.ways)
        longest = (count - 1).bit_length()
        short, width = (1 << longest) - count, max(longest - 1, 0)
        choice = random & ((1 << width) - 1)
        random >>= width
        if longest and choice >= short:
            choice = 2 * choice - short + (random & 1)
            random >>= 1
        if is_word:
            parts.append(item.texts[choice])
            if item.fact is not None:
                facts[item.fact] = choice
        else:
            stack.extend(reversed(item.ways[choice]))
    return "".join(parts)
