"""The text files of a dataset on the Hub: which belong to a split, and one after another on this disk.

    hf://datasets/OWNER/NAME@REVISION         the files of the split, as the dataset's card says, else their names
    hf://datasets/OWNER/NAME@REVISION/path    the files at or below the path, whatever their split

The listing has every file's hash, so what would be read is known before a byte of it is fetched. A file is on the
disk from shortly before it is read until it is closed; so many after it are fetched ahead.
"""

import fnmatch
import logging
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import yaml

from candlewick.artifacts import json_sha256
from candlewick.config import DataConfig
from candlewick.data.pieces import SourceFile
from candlewick.data.sources import describe_file
from candlewick.errors import DataError
from candlewick.hub import HubFile, HubRepo, fetch_file, open_repo, parse_uri

_CARD = "README.md"
_MAX_CARD_BYTES = 4 << 20
_SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".txt", ".txt.gz", ".txt.zst")
_OTHER_SPLITS = ("train", "test", "validation", "valid", "dev", "eval")

_log = logging.getLogger(__name__)


class HubFiles:
    """The chosen files of a repository in the order of their names. Close it: what is being fetched is awaited."""

    def __init__(self, uri: str, split: str, config: DataConfig, folder: Path, *, ahead: int = 1) -> None:
        """List the repository. Raises DataError if it has no such text, EnvironmentFault without a network."""
        self.repo = open_repo(uri)
        self.files = choose_files(self.repo, parse_uri(uri).path, split)
        self._config, self._folder, self._ahead = config, folder, ahead
        self._pool = ThreadPoolExecutor(max(1, ahead))
        self._pending: dict[int, Future[Path]] = {}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the repository's name and names, sizes and hashes of the chosen files."""
        files = [[file.path, file.bytes, file.sha256 or file.blob_id] for file in self.files]
        return json_sha256([self.repo.name, files])

    @property
    def sizes(self) -> list[int]:
        """Bytes of each file."""
        return [file.bytes for file in self.files]

    def open(self, number: int) -> SourceFile:
        """Return a file that is now on the disk; the next ones are being fetched."""
        for wanted in range(number, min(number + 1 + self._ahead, len(self.files))):
            if wanted not in self._pending:
                file, folder = self.files[wanted], self._folder / f"{wanted:06d}"
                self._pending[wanted] = self._pool.submit(fetch_file, self.repo, file, folder)
        name = f"{self.repo.uri}/{self.files[number].path}"
        found = describe_file(self._pending[number].result(), name, self._config)
        if found is None:
            raise DataError(f"{name} is no text of {self._config.format}", "name other files of the repository")
        return found

    def close(self, number: int) -> None:
        """Remove a file from the disk."""
        self._pending.pop(number, None)
        shutil.rmtree(self._folder / f"{number:06d}", ignore_errors=True)

    def stop(self) -> None:
        """End the fetching, and remove everything that was fetched."""
        self._pool.shutdown(cancel_futures=True)
        shutil.rmtree(self._folder, ignore_errors=True)


def choose_files(repo: HubRepo, path: str, split: str) -> tuple[HubFile, ...]:
    """Return the text files at or below a path, or without one those of a split. Raises DataError for none."""
    texts = tuple(file for file in repo.files if file.path.endswith(_SUFFIXES))
    if path:
        chosen = tuple(
            f for f in texts if f.path == path or f.path.startswith(f"{path}/") or fnmatch.fnmatch(f.path, path)
        )
    else:
        chosen = _by_card(repo, texts, split)
        chosen = _by_name(texts, split) if chosen is None else chosen
    if not chosen:
        folders = sorted({file.path.rpartition("/")[0] or file.path for file in texts})
        raise DataError(
            f"{repo.uri} has no text files {f'at {path}' if path else f'of the split {split!r}'} "
            f"({len(texts)} text files in {', '.join(folders)[:200] or 'no folder'})",
            "name a folder in it: hf://datasets/OWNER/NAME@REVISION/folder; text is " + ", ".join(_SUFFIXES),
        )
    if len({Path(file.path).suffix for file in chosen}) > 1:
        _log.info("%s: files of several kinds are read", repo.uri)
    return chosen


def _by_card(repo: HubRepo, texts: tuple[HubFile, ...], split: str) -> tuple[HubFile, ...] | None:
    """Return the files that the card's default configuration gives to a split; None: it does not say."""
    card = next((file for file in repo.files if file.path == _CARD and file.bytes <= _MAX_CARD_BYTES), None)
    if card is None:
        return None
    with TemporaryDirectory() as folder:
        patterns = card_patterns(
            fetch_file(repo, card, Path(folder)).read_text(encoding="utf-8", errors="replace"), split
        )
    if patterns is None:
        return None
    return tuple(file for file in texts if any(_matches(file.path, pattern) for pattern in patterns))


def _matches(path: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, pattern.replace("**/", ""))


def card_patterns(card: str, split: str) -> list[str] | None:
    """Return the patterns of a split's files in the header of a dataset's card; None if it names no files."""
    if not card.startswith("---"):
        return None
    try:
        header: Any = yaml.safe_load(card[3:].partition("\n---")[0])
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        _log.warning("the dataset's card cannot be read, so files are chosen by their names: %s", str(error)[:100])
        return None
    configs = cast("dict[str, Any]", header).get("configs") if isinstance(header, dict) else None
    if not isinstance(configs, list):
        return None
    named = [
        cast("dict[str, Any]", c)
        for c in cast("list[object]", configs)
        if isinstance(c, dict) and "data_files" in c
    ]
    default = [c for c in named if c.get("default") is True or c.get("config_name") == "default"]
    if not (default or named):
        return None
    found: Any = (default or named)[0]["data_files"]
    entries = cast("list[Any]", found) if isinstance(found, list) else [found]
    patterns: list[str] = []
    for entry in entries:
        paths: Any = cast("dict[str, Any]", entry).get("path", []) if isinstance(entry, dict) else entry
        own = str(cast("dict[str, Any]", entry).get("split", "train")) if isinstance(entry, dict) else "train"
        if own == split:
            patterns += [str(path) for path in cast("list[object]", paths if isinstance(paths, list) else [paths])]
    return patterns


def _by_name(texts: tuple[HubFile, ...], split: str) -> tuple[HubFile, ...]:
    """Return the files with the split in their path; for `train` else those with no other split in it."""

    def words(file: HubFile) -> set[str]:
        return set(file.path.lower().replace("-", "/").replace("_", "/").replace(".", "/").split("/"))

    named = tuple(file for file in texts if split in words(file))
    if named or split != "train":
        return named
    return tuple(file for file in texts if not words(file).intersection(_OTHER_SPLITS))
