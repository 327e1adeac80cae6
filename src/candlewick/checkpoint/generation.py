"""generation_config.json: how a model wants to be sampled, and which tokens end a text.

Entries of a model that a run starts from, or that is imported, are kept, but for max_length; the ids are written
anew.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from candlewick.checkpoint.huggingface import read_json_file

_WRITTEN_ANEW = {"bos_token_id", "eos_token_id", "pad_token_id"}
_LENGTH = "max_length"  # with it, transformers warns at each call with max_new_tokens
SAMPLING_FIELDS = {"do_sample", "temperature", "top_k", "top_p", "min_p"}
"""Entries of generation_config.json that say how tokens are drawn."""


def generation_config(
    stop_ids: Sequence[int], padding_id: int | None, unused_ids: Sequence[int], inherited: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of generation_config.json. The last of `stop_ids` is the delimiter.

    `unused_ids` are those of rows of the embedding that no token has: they are never drawn. `inherited` are the
    entries of the model that this one comes from; without a word of sampling, ours are written.
    """
    kept = {name: value for name, value in inherited.items() if name not in {*_WRITTEN_ANEW, _LENGTH}}
    sampling = {} if SAMPLING_FIELDS & kept.keys() else {"do_sample": True, "temperature": 0.8, "top_k": 40}
    return {
        **({"suppress_tokens": list(unused_ids)} if unused_ids else {}),
        "bos_token_id": stop_ids[-1],
        "eos_token_id": list(stop_ids) if len(stop_ids) > 1 else stop_ids[0],
        "pad_token_id": padding_id,
        **sampling,
        **kept,
    }


def read_generation_config(folder: Path) -> dict[str, Any]:
    """Read generation_config.json: single values, and the tokens that end a text. Raises CheckpointError.

    Lists of other tokens and the version of transformers are left out. Without the file it is empty.
    """
    path = folder / "generation_config.json"
    if not path.exists():
        return {}
    values = read_json_file(path, "generation configuration")
    plain = {name: value for name, value in values.items() if type(value) in (bool, int, str)}
    plain |= {name: value for name, value in values.items() if isinstance(value, float) and isfinite(value)}
    plain.pop("transformers_version", None)
    return plain | {"eos_token_id": values.get("eos_token_id")}
