"""The sources of a run by name: text, and token datasets.

data.train_shards    tokens                        data.validation_shards   validation
data.mixture         tokens_0, tokens_1, ...       data.validation_sets     validation_NAME

`data.prepared` has the token datasets that a run made of its text, by these names.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from candlewick.artifacts.manifest import read_manifest
from candlewick.checkpoint.layout import find_checkpoints
from candlewick.config import DataConfig, RunConfig, TokenizerConfig
from candlewick.data.text.corpus import Corpus
from candlewick.data.tokens.cache import is_cached
from candlewick.data.tokens.dataset import is_token_dataset
from candlewick.data.tokens.plan import dataset_settings
from candlewick.data.tokens.prepare import is_limited, misses_tokens
from candlewick.errors import CheckpointError, ConfigError, DataError
from candlewick.hub import SCHEME, parse_uri
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.files import read_special_tokens

Sources = dict[str, tuple[str, ...]]
"""URIs by the name of the dataset that is made of them."""

logger = logging.getLogger(__name__)


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
    """Return the sources that are text, not tokens, and of which no tokens are prepared."""
    return {name: uris for name, uris in all_sources(data).items() if source_dataset(data, name) is None}


def source_dataset(data: DataConfig, name: str) -> Path | None:
    """Return the token dataset of a source, prepared or named; None for text. Raises ConfigError, DataError."""
    return data.prepared.get(name) or token_dataset(all_sources(data)[name])


def token_dataset(uris: Sequence[str]) -> Path | None:
    """Return the folder of the token dataset that `uris` name, None for text. Raises ConfigError, DataError."""
    paths = [Path(uri) for uri in uris if "://" not in uri]
    if (gone := next((path for path in paths if is_cached(path) and not path.exists()), None)) is not None:
        raise DataError(
            f"the prepared tokens {gone} are gone from the cache",
            "name the text, to make them again: --override 'data.train_shards=[TEXT]'",
        )
    datasets = [path for path in paths if is_token_dataset(path)]
    if not datasets:
        return None
    if len(uris) > 1:
        raise ConfigError(
            f"{datasets[0]} is a token dataset and cannot stand beside other sources",
            "give it alone, as a source of data.mixture, or give text",
        )
    return datasets[0]


def without_lost_datasets(config: RunConfig) -> RunConfig:
    """Return the config with those prepared datasets that are there and that its settings would make."""
    data, sources = config.data, all_sources(config.data)
    kept: dict[str, Path] = {}
    for name, folder in data.prepared.items():
        if name not in sources or data.prepared_from.get(name) != sources[name]:
            logger.info("the tokens %s were made of other sources: they are not read", folder)
        elif not is_token_dataset(folder):
            logger.warning("the tokens %s are gone: they are made again from %s", folder, ", ".join(sources[name]))
        elif _is_made_with(folder, data, is_training=name in training_sources(data)):
            kept[name] = folder
        else:
            logger.info("the tokens %s were made with other settings: they are not read, or read on", folder)
    made_of = {name: data.prepared_from[name] for name in kept}
    return config if kept == data.prepared else config.replaced(data={"prepared": kept, "prepared_from": made_of})


def _is_made_with(folder: Path, data: DataConfig, *, is_training: bool) -> bool:
    settings = dataset_settings(data, hold_out=is_training and not data.validation_shards)
    settings |= data.model_dump(include={"max_tokens", "max_documents"})  # of text of the Hub
    manifest = read_manifest(folder)
    made, limit = {**manifest.config}, data.max_tokens
    if is_limited(manifest, limit) and not misses_tokens(manifest, limit):
        made["max_tokens"] = limit
    return all(made[name] == value for name, value in settings.items() if name in made)


def dataset_tokenizer(data: DataConfig) -> Path | None:
    """Return the tokenizer of the first token dataset that is trained on."""
    datasets = [source_dataset(data, name) for name in training_sources(data)]
    return next((folder / "tokenizer" for folder in datasets if folder is not None), None)


def find_tokenizer(path: Path) -> Path:
    """Return where the tokenizer lies that a path names: a file, its folder, a run or a checkpoint."""
    if not path.is_dir() or any((path / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        return path
    if (path / "tokenizer").is_dir():  # of a token dataset, or of a run that keeps its data
        return path / "tokenizer"
    try:
        return find_checkpoints(path)[0]
    except CheckpointError:
        return path


def open_tokenizer(config: TokenizerConfig) -> Tokenizer | None:
    """Return the tokenizer that a configuration names, None if it names none. Raises TokenizerError."""
    if config.tokenizer_json is not None:
        tokenizer = Tokenizer.load(find_tokenizer(config.tokenizer_json))
        if config.special_tokens is not None:
            read_special_tokens(config.special_tokens, tokenizer.special_tokens)
        return tokenizer
    if config.vocab is None or config.merges is None:
        return None
    return Tokenizer.from_files(config.vocab, config.merges, config.special_tokens)


def encoding_tokenizer(tokenizer: Tokenizer, data: DataConfig) -> Tokenizer:
    """Return the tokenizer with which the text of a run is encoded: for chats it has their tokens."""
    has_text = any(token_dataset(uris) is None for uris in all_sources(data).values())
    return tokenizer.with_chat_tokens() if data.format == "chat" and has_text else tokenizer


def with_datasets(config: RunConfig, folders: Mapping[str, Path], texts: Mapping[str, Corpus]) -> RunConfig:
    """Return the config with the token datasets of its text, and addresses of the Hub at their commit."""
    data = config.data
    uris = all_sources(data)
    uris |= {name: tuple(_at_commit(uri, text) for uri in uris[name]) for name, text in texts.items()}
    named = zip(training_sources(data), data.mixture, strict=False)
    return config.replaced(
        data={
            "prepared": {**data.prepared, **folders},
            "prepared_from": {**data.prepared_from, **{name: uris[name] for name in folders}},
            "train_shards": () if data.mixture else uris.get("tokens", ()),
            "mixture": tuple(source.replaced(shards=uris[name]) for name, source in named),
            "validation_shards": uris.get("validation", ()),
            "validation_sets": {name: uris[f"validation_{name}"] for name in data.validation_sets},
        }
    )


def _at_commit(uri: str, text: Corpus) -> str:
    """Return an address of the Hub with the commit at which its files were listed; another one as it is."""
    if not uri.startswith(SCHEME):
        return uri
    address = parse_uri(uri)
    if address.is_pinned:
        return uri
    repos = [file.hub[0] for file in text.files if file.hub is not None]
    found = next(repo for repo in repos if (repo.kind, repo.name) == (address.kind, address.name))
    return str(replace(address, revision=found.revision))
