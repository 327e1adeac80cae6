"""Read a tokenizer configuration of transformer_candle, and open the tokenizer that it names.

    model          vocab_size  min_frequency  dropout  special_tokens  byte_fallback_on_decode
    pretokenizer   add_prefix_space  trim_offsets  use_regex
    postprocessor  add_bos  add_eos  pair_template
    training       inputs  seed  shuffle  max_lines  num_threads
    artifacts      dir  tokenizer_json  vocab_json  merges_txt  manifest

The file is YAML, TOML or JSON. Paths are relative to the file, those of the artifacts to `artifacts.dir`.
`tokenizer_training` trains the tokenizer, with all 256 bytes as tokens, so that no byte is lost.
"""

import difflib
import json
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from candlewick.config.formats import MAX_BYTES, SUFFIXES, line_of, parse
from candlewick.config.load import join_problems
from candlewick.config.section import Count, Fraction, Section, Steps
from candlewick.errors import ConfigError, TokenizerError
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.files import MERGES_TXT, TOKENIZER_JSON, VOCAB_JSON

FILES = {"tokenizer_json": TOKENIZER_JSON, "vocab_json": VOCAB_JSON, "merges_txt": MERGES_TXT}


class TokenizerModel(Section):
    """The vocabulary and its merges."""

    vocab_size: Count
    min_frequency: Count = 2
    dropout: Fraction | None = None
    special_tokens: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    byte_fallback_on_decode: bool = False


class Pretokenizer(Section):
    """How text is split before merging."""

    add_prefix_space: bool = True
    trim_offsets: bool = True
    use_regex: bool = True


class Postprocessor(Section):
    """Tokens around a text; with `pair_template`, around the second of two texts too."""

    add_bos: bool = True
    add_eos: bool = True
    pair_template: bool = True

    @property
    def tokens(self) -> tuple[str | None, str | None]:
        """The tokens before and after a text."""
        return "<bos>" if self.add_bos else None, "<eos>" if self.add_eos else None


class TokenizerTraining(Section):
    """The training text, read line by line."""

    inputs: tuple[str, ...] = Field(min_length=1)
    seed: Steps = 17
    shuffle: bool = True
    max_lines: Count | None = None
    num_threads: Count | None = None


class Artifacts(Section):
    """The files to write."""

    dir: Path
    tokenizer_json: Path | None = None
    vocab_json: Path | None = None
    merges_txt: Path | None = None
    manifest: Path | None = None


class CandleTokenizerConfig(Section):
    """A tokenizer configuration of transformer_candle."""

    model: TokenizerModel
    pretokenizer: Pretokenizer = Pretokenizer()
    postprocessor: Postprocessor | None = None
    training: TokenizerTraining | None = None
    artifacts: Artifacts

    @model_validator(mode="after")
    def _check(self) -> Self:
        special = self.model.special_tokens
        if len(set(special)) < len(special):
            raise ValueError("model.special_tokens names one twice")
        for name in self.postprocessor.tokens if self.postprocessor else ():
            if name is not None and name not in special:
                raise ValueError(f"postprocessor adds {name}, which model.special_tokens does not name")
        return self


_SECTIONS = (CandleTokenizerConfig, TokenizerModel, Pretokenizer, Postprocessor, TokenizerTraining, Artifacts)
_KEYS = [name for section in _SECTIONS for name in section.model_fields]


def read_tokenizer_config(source: str | None) -> CandleTokenizerConfig | None:
    """Return the tokenizer configuration in a file; None for any other file. Raises ConfigError if it is wrong."""
    path = Path(source or "").expanduser()
    file_format = SUFFIXES.get(path.suffix.lower())
    if file_format is None or not path.is_file() or path.stat().st_size > MAX_BYTES:
        return None
    parsed = parse(path.read_bytes().decode("utf-8-sig", errors="replace"), file_format)
    if not parsed.tree.keys() & {"artifacts", "pretokenizer", "postprocessor"}:
        return None
    config = None
    try:
        config = CandleTokenizerConfig.model_validate_json(json.dumps(parsed.tree))
    except ValidationError as error:
        for detail in error.errors():
            key, message = detail["loc"], detail["msg"].removeprefix("Value error, ")
            if detail["type"] == "extra_forbidden":
                matches = difflib.get_close_matches(str(key[-1]), _KEYS, 1)
                message = f"unknown key{f', did you mean {matches[0]}?' if matches else ''}"
            parsed.report(line_of(parsed.lines, key), key, message)
    if config is None or parsed.problems:
        problems = [(f"{path}:{line}", key or (), message) for line, key, message in parsed.problems]
        raise ConfigError(join_problems(problems), "correct the file")
    folder, artifacts, training = path.absolute().parent, config.artifacts, config.training
    artifacts = artifacts.replaced(dir=folder / artifacts.dir.expanduser())
    if training is not None:
        inputs = [uri if "://" in uri else str(folder / Path(uri).expanduser()) for uri in training.inputs]
        training = training.replaced(inputs=tuple(inputs))
    return config.replaced(artifacts=artifacts, training=training)


def open_candle_tokenizer(config: CandleTokenizerConfig, folder: Path | None = None) -> Tokenizer:
    """Load tokenizer.json, else vocab.json and merges.txt, from `folder`, by default `artifacts.dir`.

    Raises TokenizerError for an unusable tokenizer, or one that differs from the configuration.
    """
    folder = folder or config.artifacts.dir
    tokenizer_json, vocab, merges = (folder / (getattr(config.artifacts, name) or FILES[name]) for name in FILES)
    special, prefix_space = config.model.special_tokens, config.pretokenizer.add_prefix_space
    if tokenizer_json.exists() or not vocab.exists():
        tokenizer = Tokenizer.load(tokenizer_json)
    else:
        tokenizer = Tokenizer.from_files(vocab, merges, special, add_prefix_space=prefix_space)
    missing = [f"it lacks {name}" for name in special if name not in tokenizer.special_tokens]
    if (size := tokenizer.vocab_size) > (limit := config.model.vocab_size + len(special)):
        missing.append(f"it has {size} tokens, more than {limit}")
    if missing:
        raise TokenizerError(f"{folder} is not what the configuration describes: {missing[0]}", "train it again")
    return tokenizer
