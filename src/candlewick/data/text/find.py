"""Find the files of text that a URI names.

    stories://           stories that are written on the spot, see `data.text.stories`
    stdlib://            the standard library of the running interpreter: real text on every machine
    hf://datasets/...    files of the Hub, see `data.text.hub_files`
    notes.md             a file, whatever its name: `data.text.formats` says how it is read
    notes/**/*.md        local files that match a pattern
    corpus/              a folder, see `data.text.folders`

The order is that of the URIs, then of the names, which are relative to the URI.
"""

import glob
import logging
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from candlewick.config import DataConfig
from candlewick.data.text.corpus import Corpus
from candlewick.data.text.file_ranges import TextFile
from candlewick.data.text.folders import find_in_folder
from candlewick.data.text.formats import LeftOut, NotText, describe_file, find_format, name_format
from candlewick.data.text.hub_files import choose_files
from candlewick.data.text.reading import Reading
from candlewick.data.text.stories.source import STORIES, find_stories
from candlewick.errors import DataError
from candlewick.hub import SCHEME, HubRepo, HubUri, open_repo, parse_uri

OpenRepo = Callable[[HubUri], HubRepo]
STDLIB = "stdlib://"
logger = logging.getLogger(__name__)
_EXCLUDED_MODULES = {
    *("test", "tests", "idlelib", "lib2to3", "ensurepip", "site-packages", "__pycache__"),
    *("encodings", "pydoc_data", "stringprep", "entities.py"),  # tables, generated
}


def open_text(
    uris: Sequence[str], config: DataConfig, split: str | None = None, open_repo: OpenRepo = open_repo
) -> Corpus:
    """Return the files of `uris`; of the Hub those of `split`, by default `data.hub_split`, not yet downloaded.

    Raises DataError for a file that is missing, empty or not text, MachineError without a network.
    """
    if not uris:
        raise DataError("no text was given", "name files, folders or stories:// (data.train_shards in a config)")
    files = [file for uri in uris for file in _find_files(uri, config, split or config.hub_split, open_repo)]
    seen: set[Path | tuple[str, str]] = set()
    for file in files:
        if file.place in seen:
            name = file.path if file.hub is None else file.name
            raise DataError(f"{name} is given twice", "name each file once, or the folder alone")
        seen.add(file.place)
    return Corpus(tuple(files), Reading.from_config(config))


def _find_files(uri: str, config: DataConfig, split: str, open_repo: OpenRepo) -> list[TextFile]:
    if uri.startswith(SCHEME):
        return _find_on_hub(uri, config, split, open_repo)
    if "://" in uri:
        return _find_own(uri, config)
    path, reading = Path(uri).expanduser(), Reading.from_config(config)
    if path.is_dir():
        return find_in_folder(path, reading, config.include, config.exclude)
    if path.is_file():
        return [_open_file(path, path.name, reading)]
    if path.exists():
        raise DataError(f"{path} is not a regular file", "write it to a file first")
    if not glob.has_magic(uri):
        raise DataError(f"{path} does not exist", "check the path")
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207 - of any root
    by_place: dict[Path, Path] = {}
    for file in found:
        if file.is_file():
            by_place.setdefault(file.resolve(), file)
    if not by_place:
        raise DataError(f"no file matches {uri}", "check the pattern; ** stands for folders at any depth")
    return _open_matches(uri, list(by_place.values()), reading)


def _find_own(uri: str, config: DataConfig) -> list[TextFile]:
    """Return text that Candlewick brings along. Raises DataError for another URI or format."""
    if config.format == "text" and uri == STDLIB:
        return _find_stdlib()
    if config.format == "text" and uri.startswith(STORIES):
        return [find_stories(uri, config.cache_dir)]
    raise DataError(
        f"{uri} is not a source of format {config.format}", f"give a file, a folder, {STORIES} or {STDLIB}"
    )


def _open_file(path: Path, name: str, reading: Reading) -> TextFile:
    """Return a file that was named. Raises DataError if it is not text."""
    try:
        return find_format(describe_file(path, name, reading), reading, is_named=True)
    except NotText as error:
        raise DataError(f"{path} is {error.what}", error.fix.replace("FILE", str(path), 1)) from None


def _open_matches(uri: str, paths: Sequence[Path], reading: Reading) -> list[TextFile]:
    """Return the text among the files that match a pattern; tell what is none. Raises DataError for nothing."""
    files, left_out = list[TextFile](), LeftOut()
    for path in paths:
        try:
            files.append(find_format(describe_file(path, str(path), reading), reading, is_named=False))
        except NotText as error:
            left_out.add(path, error)
    told = ", ".join(f"{count:,} {what}" for what, count in left_out.counts.items())
    if not files:
        raise DataError(
            f"no text matches {uri} (left out: {told})", left_out.fix("give a pattern of files with text")
        )
    if told:
        logger.info("%s: %d files; left out: %s", uri, len(files), told)
        left_out.warn(uri)
    return files


def _find_on_hub(uri: str, config: DataConfig, split: str, open_repo: OpenRepo) -> list[TextFile]:
    address = parse_uri(uri)
    if address.kind != "dataset":
        raise DataError(f"{uri} is a model, not a dataset", "write hf://datasets/OWNER/NAME@REVISION")
    repo, reading = open_repo(address), Reading.from_config(config)
    return [
        TextFile(
            str(replace(repo.uri, path=file.path)),
            *name_format(file.path, reading),
            file.bytes,
            hub=(replace(repo.uri, path=""), file),
            max_text_bytes=reading.max_text_bytes(file.bytes),
        )
        for file in choose_files(repo, split)
    ]


def _find_stdlib() -> list[TextFile]:
    library, reading = Path(sysconfig.get_path("stdlib")), Reading()
    files: list[TextFile] = []
    for module in sorted(sys.stdlib_module_names - _EXCLUDED_MODULES):
        for path in sorted([library / f"{module}.py", *(library / module).rglob("*.py")]):
            names = path.relative_to(library).parts
            is_source = path.is_file() and not module.startswith("_sysconfigdata")
            if is_source and not _EXCLUDED_MODULES.intersection(names) and path.stat().st_size:
                files.append(describe_file(path, STDLIB + "/".join(names), reading))
    if not files:
        raise DataError(
            f"{STDLIB}: this interpreter has no source files in {library}",
            "use an interpreter with its library, or give other text",
        )
    return files
