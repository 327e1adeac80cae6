"""Break lines of the core packages, one at a time, and see whether a test fails: `make mutants`.

    python -m tests.mutants.campaign --count 60 --seed 7

Every mutant lives in a copy of the checkout. The tests that run its line are tried, quickest first, then the other
unit tests of its module, until one fails; a test that takes far longer than usual counts as failed. A mutant that
no test notices is printed: it wants a test, or an entry in `equivalent.toml` that argues why it changes nothing.
The exit code is 1 when more than one of twenty survives.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib.util import cache_from_source
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock

from tests.mutants.coverage_map import CoverageMap, copy_tree, environment, key_of, pytest_command
from tests.mutants.operators import Mutation, lines_of

ROOT = Path(__file__).resolve().parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
PACKAGES = ("train", "data", "checkpoint", "optim", "model", "config")
DOCUMENTS = "tests/test_documents.py"  # the reference of all settings is written from what stands at import
PROCESSES = 2
MAX_BYTES = 8 << 30  # of memory in one process of a mutant
MIN_LIMIT = 60.0  # seconds that every test may take


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one file, and what became of it."""

    file: str
    source: str
    mutation: Mutation
    verdict: str = "untried"
    """killed, survived, or equivalent (listed, so not tried)"""
    test: str = ""
    """The test that failed; empty when the process ended before the first."""
    tests: tuple[str, ...] = ()
    """The tests that were begun."""

    @property
    def place(self) -> str:
        """Return the file, the line and the kind of change."""
        return f"{self.file}:{self.mutation.line(self.source)} ({self.mutation.operator})"

    @property
    def texts(self) -> tuple[str, str, str]:
        """Return the file, the changed lines before and after: what an entry of the list of equivalents names."""
        return self.file, self.mutation.before(self.source), self.mutation.after(self.source)


def choose(root: Path, folders: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """Choose lines of code uniformly, and one change of each. The same for the same sources and seed."""
    choice = random.Random(seed)
    sources = {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for folder in folders
        for path in sorted((root / folder).rglob("*.py"))
    }
    places = [
        (file, changes) for file, source in sources.items() for _, changes in sorted(lines_of(source).items())
    ]
    chosen: list[Mutant] = []
    for file, changes in choice.sample(places, len(places)):
        if len(chosen) == count:
            break
        valid = [change for change in changes if change.is_valid(sources[file])]
        if valid:
            chosen.append(Mutant(file, sources[file], choice.choice(valid)))
    return chosen


def unit_test(file: str) -> str:
    """Return the file of a module's unit tests: src/PACKAGE/a/b.py has tests/unit/a/test_b.py."""
    folder, _, name = "/".join(Path(file).parts[2:]).rpartition("/")
    return "/".join(filter(None, ("tests/unit", folder, f"test_{name}")))


def read_equivalent(file: Path) -> set[tuple[str, str, str]]:
    """Return file, text before and text after of every listed mutant."""
    return {(e["file"], e["before"], e["after"]) for e in tomllib.loads(file.read_text()).get("mutant", [])}


@dataclass(frozen=True, slots=True)
class Workplace:
    """A copy of the checkout in which one mutant at a time is tried."""

    tree: Path
    coverage: CoverageMap
    stopped: Event = field(default_factory=Event)
    """Set: what runs here is killed."""
    used: Lock = field(default_factory=Lock)
    """Held while anything runs here."""

    def stop(self) -> None:
        """Kill what runs here, and return when nothing does any more, nor will."""
        self.stopped.set()
        with self.used:
            pass

    @contextlib.contextmanager
    def _use(self) -> Iterator[None]:
        with self.used:
            if self.stopped.is_set():
                raise CancelledError
            yield

    def attempt(self, mutant: Mutant) -> Mutant:
        """Return the mutant with its verdict. The copy is as before."""
        change = mutant.mutation
        order = self.coverage.tests_of(mutant.file, None if change.at_import else change.statement)
        unit_tests = unit_test(mutant.file)
        files = [unit_tests]
        if change.at_import:  # all that run anything in the file see it; these are the likeliest to fail
            files.append(DOCUMENTS)
            first = [name for name in self.coverage.tests if name.partition("::")[0] in files]
            order = [*first, *(name for name in order if name not in first)]
        with self._use(), _applied(mutant, self.tree):
            failed, begun = self._run(order, files)
        verdict = "survived" if failed is None else "killed"
        return replace(mutant, verdict=verdict, test=failed or "", tests=tuple(begun))

    def first_failure(self, tests: Sequence[str]) -> str | None:
        """Return the first of these tests that fails without a mutant; None: none does."""
        with self._use():
            return self._run(tests)[0]

    def _run(self, order: Sequence[str], whole_files: Sequence[str] = ()) -> tuple[str | None, list[str]]:
        """Run tests in this order, then the rest of whole files, up to the first failure.

        Returns the test that failed (None: none did), and those that began.
        """
        limits = {
            name: MIN_LIMIT + 10 * self.coverage.seconds(name) for name in order if name in self.coverage.tests
        }
        selection, progress = self.tree / ".selection.json", self.tree / ".progress.jsonl"
        chosen = {"order": order, "limits": limits, "default_limit": 2 * MIN_LIMIT, "whole_files": whole_files}
        chosen["left_out"] = self.coverage.failures()
        selection.write_text(json.dumps(chosen))
        progress.write_text("")
        files = {name.partition("::")[0] for name in order} | set(whole_files)
        words = [name for name in sorted(files) if (self.tree / name).is_file()]
        if not words:
            return None, []
        words += [
            "-x",
            f"--selection={selection}",
            f"--progress={progress}",
            f"--basetemp={self.tree / '.tmp' / 'pytest'}",
        ]
        code = self._end_of([sys.executable, "-m", *pytest_command(*words)], 180 + sum(limits.values()))
        events = [json.loads(line) for line in progress.read_text().splitlines()]
        begun = [name for event, name in events if event == "began"]
        if code in (0, 5):  # 5: no test was there to be run
            return None, begun
        if code == 3 or (code < 0 and code != -signal.SIGKILL and not begun):  # SIGKILL: its time was over
            raise RuntimeError(f"pytest broke: {(self.tree / '.log.txt').read_text()[-2000:]}")
        return next((name for event, name in events if event == "failed"), begun[-1] if begun else ""), begun

    def _end_of(self, command: list[str], limit: float) -> int:
        """Return the exit code of a process, killed with all of its children when its time is over."""

        # a shell sets the limit: set between fork and exec, it would count the memory of this process
        bounded = ["sh", "-c", f'ulimit -d {MAX_BYTES >> 10}; exec "$@"', "sh", *command]
        with (self.tree / ".log.txt").open("wb") as log:
            process = subprocess.Popen(
                bounded,
                cwd=self.tree,
                env=environment(self.tree),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            end = time.monotonic() + limit
            while process.poll() is None and time.monotonic() < end and not self.stopped.wait(0.05):
                pass
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return process.wait()


@contextlib.contextmanager
def _applied(mutant: Mutant, tree: Path) -> Iterator[None]:
    """Give a file of the tree a mutant's text, and its own text again at the end."""
    path = tree / mutant.file
    bytecode = Path(cache_from_source(str(path)))  # Python takes it for the file's if size and second agree
    try:
        path.write_text(mutant.mutation.apply(mutant.source), encoding="utf-8")
        bytecode.unlink(missing_ok=True)
        yield
    finally:
        path.write_text(mutant.source, encoding="utf-8")
        bytecode.unlink(missing_ok=True)


@contextlib.contextmanager
def _threads_for(places: Sequence[Workplace]) -> Iterator[ThreadPoolExecutor]:
    """Give a thread for each place: they start the processes, since a signal interrupts the main thread anywhere.

    At the end nothing runs in the places. A pool that was interrupted may not know all of its threads, so the
    places are waited for.
    """
    with ThreadPoolExecutor(len(places)) as pool:
        try:
            yield pool
        finally:
            for place in places:
                place.stop()


def attempt_all(
    mutants: Sequence[Mutant],
    listed: set[tuple[str, str, str]],
    places: Sequence[Workplace],
    pool: ThreadPoolExecutor,
) -> Iterator[Mutant]:
    """Return the mutants with their verdicts, in their order. As many are tried at a time as there are places."""
    free: SimpleQueue[Workplace] = SimpleQueue()
    for place in places:
        free.put(place)

    def attempt(mutant: Mutant) -> Mutant:
        if mutant.texts in listed:
            return replace(mutant, verdict="equivalent")
        place = free.get()
        try:
            return place.attempt(mutant)
        finally:
            free.put(place)

    return pool.map(attempt, mutants)


def describe(mutant: Mutant) -> str:
    """Return file, line, the text before and after, and which tests ran."""
    _, before, after = mutant.texts
    files = Counter(name.partition("::")[0] for name in mutant.tests)
    ran = ", ".join(f"{file} ({count})" for file, count in files.most_common()) or "none"
    return f"{mutant.place}\n  - {before}\n  + {after}\n  tests that ran: {ran}"


def campaign(
    root: Path,
    mutants: Sequence[Mutant],
    map_of: Callable[[Path], CoverageMap],
    listed: set[tuple[str, str, str]],
    processes: int = PROCESSES,
) -> list[Mutant]:
    """Try mutants of a checkout and print each verdict; return them. `map_of` gives the map of a copied tree."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trees = [copy_tree(root, Path(folder) / str(number)) for number in range(processes)]
        coverage = map_of(trees[0])
        for name in coverage.failures():
            print(f"warning: {name} fails without a mutant too, and is left out")
        places = [Workplace(tree, coverage) for tree in trees]
        tried: list[Mutant] = []
        with _threads_for(places) as pool:
            for mutant in attempt_all(mutants, listed, places, pool):
                by = f" by {mutant.test or 'the import'}" if mutant.verdict == "killed" else ""
                print(f"{len(tried) + 1}/{len(mutants)} {mutant.verdict}{by}: {mutant.place}", flush=True)
                tried.append(mutant)
            found = {mutant.test for mutant in tried if "::" in mutant.test}  # else a file was not imported
            killers = sorted(found)
            while (failing := pool.submit(places[0].first_failure, killers).result()) is not None:
                print(f"warning: {failing} fails without a mutant too; what it killed counts as survived")
                killers = [name for name in killers if name != failing]
        innocent = found - set(killers)
        return [replace(mutant, verdict="survived") if mutant.test in innocent else mutant for mutant in tried]


def end_on_signals() -> None:
    """Let SIGINT and SIGTERM interrupt the main thread."""
    # a job in the background of a shell ignores it, and so would the tests
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def main() -> int:
    """Run a campaign; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, help="which lines (default: others each time)")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=PROCESSES)
    parser.add_argument("--map", type=Path, help="folder of an older coverage map, of the same src")
    args = parser.parse_args()
    end_on_signals()
    seed = random.SystemRandom().randrange(1 << 32) if args.seed is None else args.seed
    mutants = choose(ROOT, [f"src/candlewick/{name}" for name in PACKAGES], args.count, seed)
    print(f"{len(mutants)} mutants, --seed {seed}", flush=True)

    def map_of(tree: Path) -> CoverageMap:
        folder = args.map or ROOT / ".mutants" / key_of(ROOT)
        if args.map is None and not (folder / "tests.json").exists():
            print("the tests run once, to see which lines each of them runs", flush=True)
            shutil.rmtree(folder.parent, ignore_errors=True)  # older maps
            return CoverageMap.make(tree, folder)
        return CoverageMap.open(folder)

    tried = campaign(ROOT, mutants, map_of, read_equivalent(EQUIVALENT), args.processes)
    verdicts = Counter(mutant.verdict for mutant in tried)
    for mutant in tried:
        if mutant.verdict == "survived":
            print(f"\n{describe(mutant)}")
    print(
        "\n" + ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())) + f"; --seed {seed}"
    )
    return 1 if 20 * verdicts["survived"] > len(tried) else 0


if __name__ == "__main__":
    raise SystemExit(main())
