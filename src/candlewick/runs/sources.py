"""The sources of a run by name: text, and token datasets.

data.train_shards    tokens                        data.validation_shards   validation
data.mixture         tokens_0, tokens_1, ...       data.validation_sets     validation_NAME
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from candlewick.config import DataConfig, RunConfig, TokenizerConfig
from candlewick.data.tokens.cache import is_cached
from candlewick.data.tokens.dataset import is_token_dataset
from candlewick.errors import ConfigError, DataError
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.files import read_special_tokens

Sources = dict[str, tuple[str, ...]]
"""URIs by the name of the dataset that is made of them."""


def training_sources(data: DataConfig) -> Sources:
    """Return the sources of training, in order."""
    if data.mixture:
        return {f"tokens_{number}": source.shards for number, source in enumerate(data.mixture)}
    return {"tokens": data.train_shards} if data.train_shards else {}


def all_sources(data: DataConfig) -> Sources:
    """Return every source of a run."""
    validation = {"validation": data.validation_shards} if data.validation_shards else {}
    sets = {f"validation_{name}": uris for name, uris in data.validation_sets.items()}
    return {**training_sources(data), **validation, **sets}


def text_sources(data: DataConfig) -> Sources:
    """Return the sources that are text, not tokens."""
    return {name: uris for name, uris in all_sources(data).items() if token_dataset(uris) is None}


def token_dataset(uris: Sequence[str]) -> Path | None:
    """Return the folder of the token dataset that `uris` name, None for text. Raises ConfigError, DataError."""
    paths = [Path(uri) for uri in uris if "://" not in uri]
    if (gone := next((path for path in paths if is_cached(path) and not path.exists()), None)) is not None:
        raise DataError(f"the prepared tokens {gone} are gone from the cache", "give the text, to make them again")
    datasets = [path for path in paths if is_token_dataset(path)]
    if not datasets:
        return None
    if len(uris) > 1:
        raise ConfigError(
            f"{datasets[0]} is a token dataset and cannot stand beside other sources",
            "give it alone, as a source of data.mixture, or give text",
        )
    return datasets[0]


def dataset_tokenizer(data: DataConfig) -> Path | None:
    """Return the tokenizer of the first token dataset that is trained on."""
    datasets = [token_dataset(uris) for uris in training_sources(data).values()]
    return next((folder / "tokenizer" for folder in datasets if folder is not None), None)


def open_tokenizer(config: TokenizerConfig) -> Tokenizer | None:
    """Return the tokenizer that a configuration names, None if it names none. Raises TokenizerError."""
    if config.tokenizer_json is not None:
        tokenizer = Tokenizer.load(config.tokenizer_json)
        if config.special_tokens is not None:
            read_special_tokens(config.special_tokens, tokenizer.special_tokens)
        return tokenizer
    if config.vocab is None or config.merges is None:
        return None
    return Tokenizer.from_files(config.vocab, config.merges, config.special_tokens)


def encoding_tokenizer(tokenizer: Tokenizer, data: DataConfig) -> Tokenizer:
    """Return the tokenizer with which the text of a run is encoded: for chats it has their tokens."""
    return tokenizer.with_chat_tokens() if data.format == "chat" and text_sources(data) else tokenizer


def with_datasets(config: RunConfig, folders: Mapping[str, Path]) -> RunConfig:
    """Return the config with token datasets, and the tokenizer of the first, in the place of text."""
    data = config.data
    uris = {**all_sources(data), **{name: (str(folder),) for name, folder in folders.items()}}
    named = zip(training_sources(data), data.mixture, strict=False)
    mixture = tuple(source.replaced(shards=uris[name]) for name, source in named)
    first = Path(next(iter(uris.values()))[0])
    return config.replaced(
        data={
            "train_shards": () if data.mixture else uris.get("tokens", ()),
            "mixture": mixture,
            "validation_shards": uris.get("validation", ()),
            "validation_sets": {name: uris[f"validation_{name}"] for name in data.validation_sets},
        },
        tokenizer={"tokenizer_json": first / "tokenizer", "vocab": None, "merges": None, "special_tokens": None},
    )
