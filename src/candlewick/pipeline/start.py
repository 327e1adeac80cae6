"""A run that starts from a checkpoint's weights takes its model and tokenizer over; nothing may contradict them.

checkpoint/config.json     -> the model section; what does not change the weights' meaning is free: dropout, the
                              table of positions, and more vocabulary rows than the checkpoint has
checkpoint/tokenizer.json  -> the tokenizer; for chats it gets the tokens that it lacks
"""

from pathlib import Path

from pydantic import ValidationError

from candlewick.checkpoint.huggingface import from_hugging_face
from candlewick.checkpoint.layout import resolve
from candlewick.config import ModelConfig, RunConfig
from candlewick.errors import ConfigError
from candlewick.tokenizer.bpe import Tokenizer

_FREE = ("attn_dropout", "residual_dropout", "vocab_size")
_SAME_ANGLES = ("preapply", "on_the_fly")  # of rope_mode


def starting_from(config: RunConfig, checkpoint: Path, tokenizer: Path | None) -> RunConfig:
    """Return the config with the model and the tokenizer of a checkpoint; `tokenizer` is that of the data, if any.

    Raises ConfigError for a setting of the model that says otherwise, and for another tokenizer.
    """
    folder = resolve(checkpoint)
    shape, rows = from_hugging_face(folder / "config.json")
    model = _combine(config.model, shape, folder)
    base = Tokenizer.load(folder)
    given = config.tokenizer.tokenizer_json or tokenizer
    loaded = base if given is None else Tokenizer.load(given)
    if loaded.sha256 not in (base.sha256, base.with_chat_tokens().sha256):
        raise ConfigError(
            f"{given} has sha256 {loaded.sha256[:12]}, the tokenizer of {folder} has {base.sha256[:12]}",
            "leave tokenizer.tokenizer_json null, and prepare token datasets with the checkpoint's tokenizer",
        )
    size = (loaded.with_chat_tokens() if config.data.format == "chat" else loaded).vocab_size
    if (wanted := model.vocab_size) is None:
        wanted = rows if rows >= size else -(-size // 64) * 64
    elif wanted < rows:
        raise ConfigError(
            f"model.vocab_size={wanted} is smaller than the {rows} rows of {folder}", "leave it null, or raise it"
        )
    update = {
        "model": model.model_copy(update={"vocab_size": wanted}),
        "tokenizer": config.tokenizer.model_copy(update={"tokenizer_json": given or folder}),
    }
    try:
        return RunConfig.model_validate(config.model_copy(update=update).model_dump())
    except ValidationError as error:
        raise ConfigError(f"the settings do not fit the model of {folder}: {error.errors()[0]['msg']}") from None


def _combine(written: ModelConfig, shape: ModelConfig, folder: Path) -> ModelConfig:
    """Lay what the user wrote over the checkpoint's shape where that is free. Raises ConfigError elsewhere."""
    given = {name: getattr(written, name) for name in ModelConfig.model_fields if name in written.model_fields_set}
    is_same_angle = written.rope_mode in _SAME_ANGLES and shape.rope_mode in _SAME_ANGLES
    free = {*_FREE, "rope_mode"} if is_same_angle else {*_FREE}
    different = [
        f"model.{name}={value} (the checkpoint has {getattr(shape, name)})"
        for name, value in given.items()
        if name not in free and value != getattr(shape, name)
    ]
    if different:
        raise ConfigError(
            f"the settings contradict the model of {folder}: {', '.join(different)}",
            "leave them out: a run that starts from a checkpoint takes its model over",
        )
    return shape.model_copy(update={"vocab_size": None, **{name: given[name] for name in free & given.keys()}})
