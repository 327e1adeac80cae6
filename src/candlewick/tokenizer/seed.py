"""A tokenizer configuration of the seed, each key of it, and the tokenizer that it names.

    model          vocab_size  min_frequency  dropout  special_tokens  byte_fallback_on_decode
    pretokenizer   add_prefix_space  trim_offsets  use_regex
    postprocessor  add_bos  add_eos  pair_template
    training       inputs  seed  shuffle  max_lines  num_threads
    artifacts      dir  tokenizer_json  vocab_json  merges_txt  manifest

In YAML, TOML or JSON. Paths are relative to the file, those of the artifacts to `artifacts.dir`.
`pipeline.seed_tokenizer` trains one. All 256 bytes are tokens of it, so it loses none, whatever `byte_fallback` says.
"""

import difflib
import json
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from candlewick.config.section import Count, Fraction, Section
from candlewick.config_text import MAX_BYTES, SUFFIXES, line_of, parse
from candlewick.config_yaml import dotted
from candlewick.errors import ConfigError, TokenizerError
from candlewick.tokenizer.bpe import Tokenizer
from candlewick.tokenizer.files import MERGES_TXT, TOKENIZER_JSON, VOCAB_JSON

BOS, EOS = "<bos>", "<eos>"


class SeedModel(Section):
    """What is trained."""

    vocab_size: Count
    min_frequency: Count = 2
    dropout: Fraction | None = None
    special_tokens: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    byte_fallback_on_decode: bool = False


class SeedPretokenizer(Section):
    """How text is cut."""

    add_prefix_space: bool = True
    trim_offsets: bool = True
    use_regex: bool = True


class SeedPostprocessor(Section):
    """What stands around a text; `pair_template`: around the second of two as well."""

    add_bos: bool = True
    add_eos: bool = True
    pair_template: bool = True


class SeedTraining(Section):
    """What it is trained on, line by line."""

    inputs: tuple[str, ...] = Field(min_length=1)
    seed: Annotated[int, Field(ge=0)] = 17
    shuffle: bool = True
    max_lines: Count | None = None
    num_threads: Count | None = None


class SeedArtifacts(Section):
    """Where it is written."""

    dir: Path
    tokenizer_json: Path | None = None
    vocab_json: Path | None = None
    merges_txt: Path | None = None
    manifest: Path | None = None


class SeedTokenizerConfig(Section):
    """A tokenizer configuration of the seed."""

    model: SeedModel
    pretokenizer: SeedPretokenizer = SeedPretokenizer()
    postprocessor: SeedPostprocessor | None = None
    training: SeedTraining | None = None
    artifacts: SeedArtifacts

    @model_validator(mode="after")
    def _check(self) -> Self:
        special = self.model.special_tokens
        if len(set(special)) < len(special):
            raise ValueError("model.special_tokens names one twice")
        missing = [name for name in self.around if name is not None and name not in special]
        if missing:
            raise ValueError(f"postprocessor adds {missing[0]}, which model.special_tokens does not name")
        return self

    @property
    def around(self) -> tuple[str | None, str | None]:
        """What the template puts before and after a text."""
        wanted = self.postprocessor
        return BOS if wanted and wanted.add_bos else None, EOS if wanted and wanted.add_eos else None


def read_seed_config(source: str | None) -> SeedTokenizerConfig | None:
    """Return the configuration in a file, None if it is none of the seed. Raises ConfigError for a wrong one."""
    path = Path(source or "").expanduser()
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None or not path.is_file() or path.stat().st_size > MAX_BYTES:
        return None
    parsed = parse(path.read_bytes().decode("utf-8-sig", errors="replace"), kind)
    if not parsed.tree.keys() & {"artifacts", "pretokenizer", "postprocessor"}:
        return None
    problems = [f"{path}:{line}: {dotted(key or ())}: {what}" for line, key, what in parsed.problems]
    try:
        config = SeedTokenizerConfig.model_validate_json(json.dumps(parsed.tree))
    except ValidationError as error:
        config = None
        for detail in error.errors(include_url=False):
            key = tuple(detail["loc"])
            what = detail["msg"].removeprefix("Value error, ")
            if detail["type"] == "extra_forbidden":
                near = difflib.get_close_matches(str(key[-1]), _keys(SeedTokenizerConfig), 1)
                what = f"unknown key{f', did you mean {near[0]}?' if near else ''}"
            problems.append(": ".join(filter(None, (f"{path}:{line_of(parsed.lines, key)}", dotted(key), what))))
    if config is None or problems:
        raise ConfigError("; ".join(problems[:20]))
    folder = path.absolute().parent
    artifacts = config.artifacts.model_copy(update={"dir": folder / config.artifacts.dir.expanduser()})
    update: dict[str, Any] = {"artifacts": artifacts}
    if config.training is not None:
        inputs = [uri if "://" in uri else str(folder / Path(uri).expanduser()) for uri in config.training.inputs]
        update["training"] = config.training.model_copy(update={"inputs": tuple(inputs)})
    return config.model_copy(update=update)


def _keys(section: type[BaseModel]) -> list[str]:
    names = list(section.model_fields)
    inner = [field.annotation for field in section.model_fields.values()]
    for annotation in inner:
        for member in (annotation, *getattr(annotation, "__args__", ())):
            if isinstance(member, type) and issubclass(member, BaseModel):
                names += _keys(member)
    return names


def place(config: SeedTokenizerConfig, name: str, default: str) -> Path:
    """Return where a file of the artifacts lies."""
    return config.artifacts.dir / (getattr(config.artifacts, name) or default)


def open_seed_tokenizer(config: SeedTokenizerConfig) -> Tokenizer:
    """Load what a configuration names: its tokenizer.json, else vocab.json and merges.txt.

    Raises TokenizerError if it cannot be used, or is not what the configuration describes.
    """
    whole = place(config, "tokenizer_json", TOKENIZER_JSON)
    if whole.exists() or not (vocab := place(config, "vocab_json", VOCAB_JSON)).exists():
        tokenizer = Tokenizer.load(whole)
    else:
        spaced = config.pretokenizer.add_prefix_space
        tokenizer = Tokenizer.from_files(
            vocab, place(config, "merges_txt", MERGES_TXT), config.model.special_tokens, add_prefix_space=spaced
        )
    special, most = config.model.special_tokens, config.model.vocab_size + len(config.model.special_tokens)
    missing = [name for name in special if name not in tokenizer.special_tokens]
    if missing or tokenizer.vocab_size > most:
        found = f"it lacks {missing[0]}" if missing else f"it has {tokenizer.vocab_size} tokens, more than {most}"
        raise TokenizerError(f"{whole.parent} is not what the configuration describes: {found}", "train it again")
    return tokenizer
