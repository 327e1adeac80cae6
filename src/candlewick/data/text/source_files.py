"""Source files are read one after another: local files as they are, files of the Hub downloaded ahead.

    |file 7, read|file 8, downloaded|file 9, downloading|  ...      with `ahead` = 2

A file of the Hub is on the disk from shortly before it is read until the next one is.
"""

import logging
import shutil
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Thread

from candlewick.artifacts.manifest import json_sha256
from candlewick.config import DataConfig
from candlewick.data.text.corpus import Corpus, describe_file, open_corpus
from candlewick.data.text.documents import count_documents
from candlewick.data.text.file_ranges import FileRange, SourceFile
from candlewick.data.text.hub_files import choose_files
from candlewick.errors import DataError
from candlewick.hub import SCHEME, HubFile, HubRepo, HubUri, fetch_file, open_repo, parse_uri

OpenRepo = Callable[[HubUri], HubRepo]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HubSource:
    """A text file on the Hub."""

    repo: HubRepo
    file: HubFile
    name: str  # the address, at the commit
    bytes: int

    @property
    def place(self) -> tuple[str, str]:
        """Where the file is, at whichever commit."""
        return self.repo.uri.name, self.file.path


@dataclass(frozen=True)
class SourceFiles:
    """Files of text in a fixed order, and how they are read."""

    files: tuple[SourceFile | HubSource, ...]
    config: DataConfig

    @property
    def rows(self) -> list[list[str | int]]:
        """Name, size and hash of each file; reads every local byte once."""
        rows: list[list[str | int]] = []
        for file in self.files:
            if isinstance(file, SourceFile):
                rows.append([file.name, file.bytes, Corpus((file,), self.config).hashes[0]])
            else:  # the commit is left out: the same files in a later one are the same
                listed = file.file
                rows.append([f"{file.repo.uri.name}/{listed.path}", listed.bytes, listed.sha256 or listed.blob_id])
        return rows

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 over names, sizes and hashes."""
        return json_sha256(self.rows)

    def iter_downloaded(
        self, start: int, folder: Path, ahead: int, should_continue: Callable[[int], bool] = lambda _: True
    ) -> Generator[tuple[int, SourceFile]]:
        """Yield (number, local file) from `start` on; download the next `ahead` files into `folder` meanwhile.

        `should_continue` returns whether another file is wanted after that many more rows.
        """
        waiting: dict[int, Future[SourceFile]] = {}
        for number in range(start, len(self.files)):
            if not should_continue(0):
                break
            file = (waiting.pop(number, None) or self._start_download(number, folder)).result()
            rows = count_documents(FileRange(file), self.config) if file.kind == "parquet" else 0
            if should_continue(rows):
                for ahead_number in range(number + 1, min(number + 1 + ahead, len(self.files))):
                    waiting[ahead_number] = waiting.get(ahead_number) or self._start_download(ahead_number, folder)
            yield number, file
            shutil.rmtree(folder / f"{number:06d}", ignore_errors=True)
        if waiting:  # they would write into a folder that its user removes
            logger.info("waiting for %d downloads", len(waiting))
            wait(waiting.values())

    def download_all(self, folder: Path) -> Corpus:
        """Return all files as a local corpus; files of the Hub are downloaded into `folder`."""
        return Corpus(tuple(self._download(number, folder) for number in range(len(self.files))), self.config)

    def _start_download(self, number: int, folder: Path) -> Future[SourceFile]:
        future: Future[SourceFile] = Future()

        def bring() -> None:
            try:
                future.set_result(self._download(number, folder))
            except BaseException as error:  # noqa: BLE001 - raised by the thread that waits for the file
                future.set_exception(error)

        Thread(target=bring, name="fetch", daemon=True).start()  # a daemon, so that Ctrl-C waits for no network
        return future

    def _download(self, number: int, folder: Path) -> SourceFile:
        file = self.files[number]
        if isinstance(file, SourceFile):
            return file
        path = fetch_file(file.repo, file.file, folder / f"{number:06d}")
        described = describe_file(path, file.name, self.config)
        assert described is not None, "choose_files takes the same extensions"
        return described


def open_text(
    uris: Sequence[str], config: DataConfig, split: str | None = None, open_repo: OpenRepo = open_repo
) -> Corpus | SourceFiles:
    """Return the files of `uris`; of the Hub those of `split`, by default `data.hub_split`, not yet downloaded."""
    if any(uri.startswith(SCHEME) for uri in uris):
        return open_sources(uris, split or config.hub_split, config, open_repo)
    return open_corpus(uris, config)


def open_sources(
    uris: Sequence[str], split: str, config: DataConfig, open_repo: OpenRepo = open_repo
) -> SourceFiles:
    """Return the files of `uris`; of hf://datasets/... those of `split`. Raises DataError, MachineError."""
    files: list[SourceFile | HubSource] = []
    for uri in uris:
        if not uri.startswith(SCHEME):
            files += open_corpus([uri], config).files
            continue
        address = parse_uri(uri)
        if address.kind != "dataset":
            raise DataError(f"{uri} is a model, not a dataset", "write hf://datasets/OWNER/NAME@REVISION")
        repo = open_repo(address)
        for file in choose_files(repo, split):
            files.append(HubSource(repo, file, str(replace(repo.uri, path=file.path)), file.bytes))
    seen: set[Path | tuple[str, str]] = set()
    for file in files:
        if file.place in seen:
            raise DataError(f"{file.name} is given twice", "name each file once, or the folder alone")
        seen.add(file.place)
    return SourceFiles(tuple(files), config)
