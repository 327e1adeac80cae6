"""The pre-tokenizers that are known to the letter: how text is cut before the merges.

    qwen2       Qwen 2 and 3, and ours          o200k                    GPT-4o, gpt-oss, Llama 4
    qwen35      Qwen 3.5                        tekken                   Mistral since Nemo, Nemotron 3
    cl100k      GPT-4, Llama 3, OLMo 2, Phi-4   thousands+cjk+deepseek   DeepSeek V3 and later
    gpt2        GPT-2, NeoX                     digits+gpt2              SmolLM, StarCoder, Granite
    metaspace   Llama 2, Mistral                none                     Llama 2, Gemma: nothing is cut

Another regular expression may take exponential time, so a file with one is refused.
"""

from collections.abc import Mapping
from typing import Any, cast

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*" + _SPACES
_REST_WITH_SLASH = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _SPACES


def _cased_words(ending: str) -> str:
    """Return the pattern of words that are cut before a capital after a small letter."""
    start, upper, lower = r"[^\r\n\p{L}\p{N}]?", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    return f"{start}{upper}*{lower}+{ending}|{start}{upper}+{lower}*{ending}"


PATTERNS = {
    "qwen2": _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST,
    "cl100k": _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST,
    "o200k": _cased_words(_CONTRACTIONS + "?") + r"|\p{N}{1,3}" + _REST_WITH_SLASH,
    "tekken": _cased_words("") + r"|\p{N}" + _REST_WITH_SLASH,
    "qwen35": (_CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _SPACES),
}
_DEEPSEEK = {  # with line ends as characters, not as \r and \n
    "thousands": r"\p{N}{1,3}",
    "cjk": "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "deepseek": (
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"""
        "[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
    ),
}
_STEPS: Mapping[str, object] = {
    name: {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    for name, regex in {**PATTERNS, **_DEEPSEEK}.items()
} | {"digits": {"type": "Digits", "individual_digits": True}}
# of Gemma: its normalizer leaves no space to cut after
_AFTER_SPACE = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
KNOWN_PATTERNS = (*PATTERNS, "deepseek", "gpt2", "Metaspace")


def find_pattern(steps: list[object], is_byte_level: bool) -> str | None:
    """Return the name of a pre-tokenizer, of several steps joined by +; None if it is not known to the letter."""
    match steps:
        case [*cuts, {"type": "ByteLevel", "add_prefix_space": bool()}] if is_byte_level:
            uses_regex = cast("dict[str, Any]", steps[-1]).get("use_regex", True)
            names = [next((name for name, known in _STEPS.items() if known == cut), None) for cut in cuts]
            known = [name for name in (*names, "gpt2" if uses_regex else "") if name is not None]
            return "+".join(filter(None, known)) or "none" if len(known) > len(cuts) else None
        case [] | [{"type": "Metaspace"}] if not is_byte_level:
            return "metaspace" if steps else "none"
        case [step] if not is_byte_level and step == _AFTER_SPACE:
            return "none"
        case _:
            return None
