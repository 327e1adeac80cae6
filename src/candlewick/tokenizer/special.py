"""Roles of special tokens: they begin a document, end it, end a generated text, or pad rows.

    ours, GPT-2, Qwen      <|endoftext|> text <|endoftext|> text     it begins each document; no token ends it
    Llama, and others      <bos> text <eos> <bos> text <eos>

The template in a file's post-processor comes first, then tokenizer_config.json, then names that are known.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from candlewick.errors import TokenizerError
from candlewick.tokenizer.check import Json, find_steps, step_type

DELIMITER = "<|endoftext|>"
PADDING = "<|padding|>"
MESSAGE_START = "<|im_start|>"
MESSAGE_END = "<|im_end|>"
CHAT_TOKENS = (MESSAGE_START, MESSAGE_END)
PAIRS = {"<bos>": "<eos>", "<s>": "</s>", "<|begin_of_text|>": "<|end_of_text|>", "<|startoftext|>": DELIMITER}
PADDINGS = (PADDING, "<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>")
_TURNS = {*CHAT_TOKENS, "<|eot_id|>", "<|end|>", "<end_of_turn>"}
_ROLE_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True, slots=True)
class Roles:
    """The special token of each role; `names` are the keys of tokenizer_config.json."""

    delimiter: str
    end: str | None
    padding: str | None
    stops: tuple[str, ...]
    names: Mapping[str, str | None]


def find_roles(tree: Json, special: Mapping[str, int], settings: Mapping[str, Any], where: str) -> Roles:
    """Return the roles of special tokens; `settings` is tokenizer_config.json.

    Raises TokenizerError if no token begins a document, and for a template with several before or after.
    """
    template = template_tokens(tree)
    middle = template.index("$A") if "$A" in template else 0
    first, last = template[:middle], template[middle + 1 :]
    values = {name: settings[name] for name in _ROLE_NAMES if name in settings}  # a name, or an object with it
    values = {name: value.get("content") if isinstance(value, dict) else value for name, value in values.items()}
    names = {name: v if isinstance(v, str) and v in special else None for name, v in values.items()}
    bos, eos = names.get("bos_token"), names.get("eos_token")
    pair_starts = [start for start, end in PAIRS.items() if {start, end} <= special.keys()]
    starts = [token for token in (bos or DELIMITER, DELIMITER) if token in special and token not in _TURNS]
    candidates = [*first, *starts, *pair_starts, *last, *([eos] if eos else [])]
    if not candidates or candidates[0] not in special or max(len(first), len(last)) > 1:
        raise TokenizerError(
            f"{where} cannot be used: it has no document delimiter {DELIMITER}, and neither its template "
            f"({' '.join(template)[:80] or 'none'}) nor its special tokens ({', '.join(special)[:80] or 'none'}) "
            "name one token that begins a text",
            "put a tokenizer_config.json with a bos_token beside it",
        )
    delimiter = candidates[0]
    ends = [*last, eos if delimiter in (*first, bos) and eos not in _TURNS else None, PAIRS.get(delimiter)]
    end = next((token for token in ends if token in special), None)
    end = None if end == delimiter else end
    padding = next((token for token in (names.get("pad_token"), *PADDINGS) if token in special), None)
    chat_end = MESSAGE_END if MESSAGE_START in special else None
    stops = tuple(dict.fromkeys(token for token in (chat_end, end, eos, delimiter) if token in special))
    names = {"bos_token": delimiter, "eos_token": end or delimiter, "pad_token": padding} | names
    if names["pad_token"] is None:
        del names["pad_token"]
    return Roles(delimiter, end, padding, cast("tuple[str, ...]", stops), names)


def template_tokens(tree: Json) -> list[str]:
    """Return the tokens of the template of a loaded tokenizer in order; $A is the text."""
    steps = [cast(Json, step) for step in find_steps(tree, "post_processor") if step_type(step) != "ByteLevel"]
    if not steps:
        return []
    if step_type(steps[0]) != "TemplateProcessing":  # of RoBERTa and BERT
        return [steps[0]["cls"][0], "$A", steps[0]["sep"][0]]
    return [item["SpecialToken"]["id"] if "SpecialToken" in item else "$A" for item in steps[0]["single"]]
