"""The campaign of hostile text files: each gives documents or one line, in bounded memory, and ends no process.

    python -m tests.faults.texts --count 5000 --seed 0

Each file (`tests.faults.hostile_files`) is opened by its name, and as the only one of a folder; held-out text is
chosen; all its documents are read. A dataset card is read for its patterns. A worker process does that, since
native code reads some formats: the parent sees a crash, a hang, and the most memory that a file took.
"""

import multiprocessing
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from tests.faults.campaign import Progress, Scenario, run_campaign
from tests.faults.hostile_files import HostileFile, make_file

from candlewick.config import DataConfig
from candlewick.data.text.corpus import Corpus
from candlewick.data.text.documents import TextDefects, read_documents
from candlewick.data.text.file_ranges import FileRange
from candlewick.data.text.find import open_text
from candlewick.data.text.holdout import choose_holdout, hold_tails
from candlewick.data.text.hub_files import card_patterns
from candlewick.errors import CandlewickError, DataError

MOST_BYTES = 1 << 30  # of memory for a file; the largest are 80 MiB when they are decompressed
MOST_SECONDS = 120  # then it hangs, on a busy machine too
_MOST_ADDRESSES = 4 << 30  # beyond those of the program
_MAX_LINE = 4400

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["tests.faults.hostile_files", "candlewick.data.text.find", "candlewick.data.text.holdout"]
)


class Outcome(NamedTuple):
    """What became of a file."""

    name: str  # documents, nothing, refused, or "wrong"
    detail: str
    bytes: int  # of memory, at most at one time
    seconds: float  # of the processor


def read(file: HostileFile, folder: Path) -> tuple[str, str]:
    """Read a file in every way; return the name of the outcome, and the detail."""
    path = folder / file.name
    path.write_bytes(file.content)
    config = DataConfig.model_validate(file.settings)
    outcomes: list[tuple[str, str]] = []
    for uri in (path, folder):
        try:
            if file.name == "README.md":
                card_patterns(file.content.decode(), "train", "o/n")
            count = _count_documents(open_text([str(uri)], config))
            outcomes.append(("documents" if count else "nothing", str(count)))
        except CandlewickError as error:
            line = str(error)
            is_line = isinstance(error, DataError) and len(line.splitlines()) == 1 and len(line) <= _MAX_LINE
            outcomes.append(("refused" if is_line else "wrong", line))
        except BaseException as error:  # noqa: BLE001 - whatever it is
            outcomes.append(("wrong", f"{type(error).__name__}: {str(error)[:500]}"))
    path.unlink()
    return max(outcomes, key=lambda outcome: outcome[0] == "wrong")


def _count_documents(corpus: Corpus) -> int:
    defects, count = TextDefects(), 0
    if choose_holdout([corpus]) == "tails":
        hold_tails([corpus], 0.1)
    for file in corpus.files:
        for document in read_documents(FileRange(file), corpus.reading, defects):
            document.text.encode()  # no half of a character
            count += document.starts_document
    assert len(defects.examples) <= 5
    assert len(defects.row_examples) <= 5
    return count


def work(connection: Connection, folder: str) -> None:
    """Read the files whose numbers come in, and answer with outcomes."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _MOST_ADDRESSES, size + _MOST_ADDRESSES))
    while (number := connection.recv()) is not None:
        file = make_file(number)
        Path("/proc/self/clear_refs").write_text("5")  # forget the most memory so far
        before, began = _memory("VmRSS"), time.process_time()
        name, detail = read(file, Path(folder))
        seconds, most = time.process_time() - began, _memory("VmHWM") - before
        connection.send(Outcome(name, f"{file.about} {file.settings}: {detail}", most, seconds))


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def run(first: int, count: int) -> Iterator[tuple[int, Outcome]]:
    """Yield (number, outcome) of a range of files."""
    worker = None
    for number in range(first, first + count):
        if worker is None:
            folder = tempfile.TemporaryDirectory()
            connection, other = _context.Pipe()
            worker = _context.Process(target=work, args=(other, folder.name), daemon=True)
            worker.start()
            other.close()
        connection.send(number)
        try:
            if not connection.poll(MOST_SECONDS):
                worker.kill()
            outcome = connection.recv()
            if outcome.bytes > MOST_BYTES:
                outcome = outcome._replace(name="too much memory")
        except EOFError:
            worker.join()
            file = make_file(number)
            name = "hang" if worker.exitcode == -9 else "crash"
            outcome = Outcome(name, f"{file.about} {file.settings}: exit code {worker.exitcode}", 0, 0.0)
            worker = None
            folder.cleanup()
        yield number, outcome
    if worker is not None:
        connection.send(None)
        worker.join()
        folder.cleanup()


GOOD = ("documents", "nothing", "refused")


def scenarios(progress: Progress) -> Iterator[tuple[str, Scenario]]:
    """Yield the judgment on each file; tell at the end which ones took most."""
    most = slowest = Outcome("", "", 0, 0.0)
    for number, outcome in run(progress.seed, progress.count):

        def judge(folder: Path, outcome: Outcome = outcome) -> Counter[str]:
            assert outcome.name in GOOD, f"{outcome.name}: {outcome.detail}"
            return Counter([outcome.name])

        yield f"file {number}", judge
        most, slowest = max(most, outcome, key=lambda o: o.bytes), max(slowest, outcome, key=lambda o: o.seconds)
    print(f"\nmost memory: {most.bytes >> 20} MiB, {most.detail[:150]}")
    print(f"slowest: {slowest.seconds:.1f} s, {slowest.detail[:150]}", end="")


if __name__ == "__main__":
    run_campaign(__doc__, scenarios, 5000, "files", seed="number of the first file")
