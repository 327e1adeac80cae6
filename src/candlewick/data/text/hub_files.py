"""An address on the Hub names files of a dataset, by path or by split.

    hf://datasets/OWNER/NAME@REVISION/path    the files at or below the path, or that match it, of any split
    hf://datasets/OWNER/NAME@REVISION         the files of the split, by the dataset's card, else by their names

A card is the repository's README.md. Its YAML header may have `configs`, each with `data_files`: patterns of
paths, by split or for `train`. The configuration that is the default is taken, or the only one.
"""

import logging
import re
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import cast

from candlewick.config.yaml import load_foreign
from candlewick.errors import DataError
from candlewick.hub import HubFile, HubRepo, HubUri, fetch_file

logger = logging.getLogger(__name__)
_CARD = "README.md"
_MAX_CARD_BYTES = 4 << 20
_MAX_HEADER_CHARACTERS = 1 << 20
_KINDS = ("parquet", "arrow", "jsonl", "ndjson", "json", "csv", "tsv", "txt")
_SUFFIX = re.compile(rf"\.({'|'.join(_KINDS)})(\.(gz|zst|bz2|xz))?", re.IGNORECASE)
_NO_TEXT = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "config.json"}
_VALIDATION = {"validation", "valid", "val", "dev"}
_SPLITS = {"train", "test", "eval", *_VALIDATION}


def choose_files(repo: HubRepo, split: str) -> tuple[HubFile, ...]:
    """Return the text files at the repository's path, or without a path of `split`. Raises DataError for none."""
    texts = tuple(file for file in repo.files if _kind(file) is not None)
    if path := repo.uri.path:
        named = tuple(file for file in repo.files if file.path == path)
        chosen = named or _match_globs(texts, [path, f"{path}/**"])
    else:
        patterns = _read_card(repo, split)
        chosen = _match_name(texts, split, repo.uri) if patterns is None else _match_globs(texts, patterns)
    if not chosen:
        folders = sorted({file.path.rpartition("/")[0] or file.path for file in texts})
        raise DataError(
            f"{repo.uri} has no text files{'' if path else f' of the split {split!r}'} "
            f"({len(texts)} text files in {', '.join(folders)[:200] or 'no folder'})",
            "name a folder or file in it: hf://datasets/OWNER/NAME@REVISION/folder; text is "
            + ", ".join(f".{kind}" for kind in _KINDS),
        )
    return chosen


def _kind(file: HubFile) -> str | None:
    """Return the extension of a file of text, None for another."""
    path = PurePosixPath(file.path)
    found = (
        None
        if path.name in _NO_TEXT
        else _SUFFIX.fullmatch("".join(path.suffixes[-2:])) or _SUFFIX.fullmatch(path.suffix)
    )
    return found and found[1].lower()


def _match_globs(files: tuple[HubFile, ...], patterns: list[str]) -> tuple[HubFile, ...]:
    """Return the files that match a pattern; `**` stands for folders at any depth, `*` stays in one."""
    parts = [pattern.removeprefix("./").split("/") for pattern in patterns]
    return tuple(file for file in files if any(_matches(file.path.split("/"), pattern) for pattern in parts))


def _matches(names: list[str], pattern: list[str]) -> bool:
    """Return whether the parts of a path match those of a pattern, in time of their product."""
    reached = {0}  # parts of the path that the parts of the pattern so far can match
    for part in pattern:
        if part == "**":
            reached = set(range(min(reached, default=len(names) + 1), len(names) + 1))
        else:
            reached = {i + 1 for i in reached if i < len(names) and fnmatchcase(names[i], part)}
    return len(names) in reached


def _read_card(repo: HubRepo, split: str) -> list[str] | None:
    """Return the patterns of a split's files in the card; None: the card names no files."""
    card = next((file for file in repo.files if file.path == _CARD and file.bytes <= _MAX_CARD_BYTES), None)
    if card is None:
        return None
    with TemporaryDirectory() as folder:
        text = fetch_file(repo.uri, card, Path(folder)).read_text(encoding="utf-8", errors="replace")
    return card_patterns(text, split, str(repo.uri))


def card_patterns(card: str, split: str, name: str) -> list[str] | None:
    """Return the patterns of a split's files in the header of a card, None for no files. Raises DataError."""
    header = re.match(r"---\s*\n(.*?)\n---", card[:_MAX_HEADER_CHARACTERS], re.DOTALL)
    try:
        tree = load_foreign(header[1]) if header else None
    except ValueError as error:
        raise DataError(
            f"the header of {name}/{_CARD} cannot be read: {error}",
            "name the files: hf://datasets/OWNER/NAME@REVISION/folder",
        ) from None
    configs = [config for config in _list(_get(tree, "configs")) if _get(config, "data_files")]
    default = [c for c in configs if _get(c, "default") is True or _get(c, "config_name") == "default"]
    chosen = default or configs
    if not chosen:
        return None
    if len(chosen) > 1:
        names = ", ".join(str(_get(config, "config_name")) for config in chosen)[:200]
        raise DataError(
            f"{name} has several configurations and no default: {names}",
            "name the files of one: hf://datasets/OWNER/NAME@REVISION/folder",
        )
    patterns: list[str] = []
    for entry in _list(_get(chosen[0], "data_files")):
        paths = _get(entry, "path") if isinstance(entry, dict) else entry
        if (_get(entry, "split") or "train") == split:
            patterns += [path for path in _list(paths) if isinstance(path, str)]
    return patterns


def _get(value: object, key: str) -> object:
    return cast("dict[str, object]", value).get(key) if isinstance(value, dict) else None


def _list(value: object) -> list[object]:
    return [] if value is None else cast("list[object]", value) if isinstance(value, list) else [value]


def _match_name(texts: tuple[HubFile, ...], split: str, uri: HubUri) -> tuple[HubFile, ...]:
    """Return the files with the split in their path; for `train` else those with no other split in it."""
    path_words = {file: set(re.split(r"[^a-z0-9]+", file.path.lower())) for file in texts}
    names = _VALIDATION if split == "validation" else {split}
    chosen = tuple(file for file in texts if path_words[file] & names)
    if not chosen and split == "train":
        chosen = tuple(file for file in texts if not path_words[file] & _SPLITS)
    kinds = {_kind(file) or "" for file in chosen}
    if len(kinds) > 1:
        logger.warning(
            "%s has the split %r in several formats (%s), maybe the same text twice: %s/*.%s would be one of them",
            *(uri, split, ", ".join(sorted(kinds)), uri, min(kinds)),
        )
    return chosen
