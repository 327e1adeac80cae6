"""Files of a corpus are brought to this disk one after another, those of the Hub downloaded ahead.

|file 7, read|file 8, downloaded|file 9, downloading|  ...      with `ahead` = 2
"""

import logging
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread
from typing import Self

from candlewick.data.text.corpus import Corpus
from candlewick.data.text.file_ranges import TextFile
from candlewick.data.text.formats import NotText, find_format
from candlewick.data.text.reading import Reading
from candlewick.errors import DataError
from candlewick.hub import fetch_file

logger = logging.getLogger(__name__)


@dataclass
class Downloads:
    """The files of a corpus on this disk: local ones as they are, those of the Hub in `folder` for a while.

    No download runs longer than the block: one that ran on would write into the folder of the next process, for
    which the files stay after an error.
    """

    corpus: Corpus
    folder: Path
    ahead: int = 1
    _pending: dict[int, Future[TextFile]] = field(default_factory=dict[int, Future[TextFile]])
    _present: list[int] = field(default_factory=list[int])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        elif issubclass(kind, Exception):  # an interruption ends the process, and with it its threads
            self._wait()

    def files(
        self, start: int = 0, wants_next: Callable[[TextFile], bool] = lambda _: True
    ) -> Iterator[tuple[int, TextFile]]:
        """Yield (number, file on this disk) from number `start` on.

        The next files are downloaded meanwhile if `wants_next` returns that they are likely needed after a file.
        """
        for number in range(start, len(self.corpus.files)):
            file = self._start(number).result()
            del self._pending[number]
            if file.hub is not None:
                self._present.append(number)
            if file.hub is not None and self.ahead and wants_next(file):
                for next_number in range(number + 1, min(number + 1 + self.ahead, len(self.corpus.files))):
                    self._start(next_number)
            yield number, file

    def release(self, stop: int) -> None:
        """Remove the downloaded files with numbers below `stop`."""
        for number in [number for number in self._present if number < stop]:
            shutil.rmtree(self._place(number), ignore_errors=True)
            self._present.remove(number)

    def close(self) -> None:
        """Wait for running downloads, which would write into the folder, and remove it."""
        self._wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait(self) -> None:
        if running := [future for future in self._pending.values() if not future.done()]:
            logger.info("waiting for %d downloads", len(running))
            wait(running)

    def _place(self, number: int) -> Path:
        return self.folder / f"{number:06d}"

    def _start(self, number: int) -> Future[TextFile]:
        if number in self._pending:
            return self._pending[number]
        file = self.corpus.files[number]
        future = self._pending[number] = Future[TextFile]()
        if file.hub is None:
            future.set_result(file)
            return future

        def bring() -> None:
            try:
                future.set_result(download(file, self._place(number), self.corpus.reading))
            except BaseException as error:  # noqa: BLE001 - raised by the thread that waits for the file
                future.set_exception(error)

        Thread(target=bring, name="fetch", daemon=True).start()  # a daemon, so that Ctrl-C waits for no network
        return future


def download(file: TextFile, folder: Path, reading: Reading) -> TextFile:
    """Return a file on this disk; one of the Hub is downloaded into `folder`. Raises DataError, MachineError."""
    if file.hub is None:
        return file
    path = fetch_file(*file.hub, folder)
    file = replace(file, path=path.resolve(), modified_ns=path.stat().st_mtime_ns)
    try:
        return find_format(file, reading, is_named=True)
    except NotText as error:
        raise DataError(f"{file.name} is {error.what}", "leave it out: name the other files") from None
