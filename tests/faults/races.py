"""The campaign of two training runs that are started together into one folder: one of them gets it, or both may.

    python -m tests.faults.races --count 50

Both commands begin at the same moment. A run that gets as far as its first update waits there, with its folders
held, until the other one is there too or has ended; so no speed of the machine decides what is tested. Of two runs
with one folder of checkpoints, one folder of best checkpoints, or one run folder, one gets there. The other ends
with exit code 3 and one line that names the folder; started again after the first, it overwrites nothing without
saying so. The checkpoints of the first one are whole, name it, and have the bits of a run alone. Two runs with one
cache, in which nothing is prepared yet, both end so, and what is prepared is whole and there once.
"""

from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from typing import Any

import pytest
from tests.faults.campaign import Progress, Scenario, run_campaign
from tests.faults.training import (
    STEPS,
    Corpus,
    context,
    differences,
    end,
    ending,
    launch,
    start,
    unfinished,
    whole_checkpoints,
)
from tests.waiting import wait_until

from candlewick.artifacts.manifest import read_manifest, verify
from candlewick.config.seal import read_run_id
from candlewick.train.trainer import Trainer

SHARED: dict[str, dict[str, Any]] = {
    "checkpoints": {"runtime.checkpoint.directory": "SHARED"},
    "best ones": {"runtime.evaluation.best.directory": "SHARED"},
    "run": {},
    "cache": {"data.cache_dir": "SHARED"},
}
"""What the two runs have in common, and the settings that say so."""

_REFUSED, _MISUSED = 3, 2  # exit codes


@dataclass(frozen=True)
class Gate:
    """Begins a command together with the other one, and lets its run wait before its first update."""

    together: Barrier
    has_come: Event
    is_open: Event

    @contextmanager
    def __call__(self, folder: Path) -> Generator[None]:
        """Do so while the block runs."""
        run = Trainer.run

        def wait(trainer: Trainer) -> Any:
            self.has_come.set()
            assert self.is_open.wait(120), "the gate stays closed"
            return run(trainer)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "run", wait)
            self.together.wait(120)
            yield


@dataclass(frozen=True)
class Race:
    """Two runs in a folder that have something in common."""

    shared: str
    corpus: Corpus
    alone: dict[str, Any]  # the ending of a run that is alone
    folder: Path

    def run(self) -> None:
        """Run both. Raises AssertionError if it does not end as it must."""
        for place in self.places:
            place.mkdir()
        together, is_open = context.Barrier(2), context.Event()
        gates = [Gate(together, context.Event(), is_open) for _ in self.places]
        pairs = zip(self.places, gates, strict=True)
        processes = [launch(self.words(place), place, gate) for place, gate in pairs]

        def is_decided() -> bool:
            pairs = zip(gates, processes, strict=True)
            return all(gate.has_come.is_set() or process.exitcode is not None for gate, process in pairs)

        wait_until(is_decided, f"two runs with one folder, of {self.shared}")
        came = [gate.has_come.is_set() for gate in gates]
        is_open.set()
        codes = [end(process) for process in processes]
        for place in self.places:
            assert "Traceback" not in said(place), said(place)[-1500:]
        if self.shared == "cache":
            assert (came, codes) == ([True, True], [0, 0]), [said(place)[-500:] for place in self.places]
            self._check_cache()
        else:
            assert sorted(came) == [False, True], f"{sum(came)} runs have one folder, of {self.shared}"
            self._check(came.index(True), codes)

    @property
    def places(self) -> tuple[Path, Path]:
        """The folders of the two starts."""
        return self.folder / "one", self.folder / "other"

    @property
    def in_common(self) -> Path:
        """The folder that both runs use."""
        return self.folder / "shared"

    def run_dir(self, place: Path) -> Path:
        """Return the folder of a run."""
        return self.in_common if self.shared == "run" else place / "run"

    def words(self, place: Path) -> list[str]:
        """Return the command of a start."""
        settings = {
            name: value.replace("SHARED", str(self.in_common)) for name, value in SHARED[self.shared].items()
        }
        return self.corpus.words(settings, self.run_dir(place))

    def _check(self, winner: int, codes: list[int]) -> None:
        """Check both runs of which one was to get the folder; start the other one again."""
        first, second = self.places[winner], self.places[1 - winner]
        assert codes[winner] == 0, said(first)[-1500:]
        self._check_end(first)
        assert codes[1 - winner] == _REFUSED, said(second)[-1500:]
        (line,) = [line for line in said(second).splitlines() if line.startswith("error:")]
        assert f"{self.in_common} is in use by " in line, line
        (second / "output").unlink()
        before = self._content()
        code = start(self.words(second), second)
        if self.shared == "best ones":  # the links are those of the second from now on, and it says so
            about = f"{self.in_common / 'best'} was a link to {self.run_dir(first)}"
            assert code == 0, said(second)[-1500:]
            assert about in said(second), said(second)[-1500:]
        else:
            assert code == _MISUSED, said(second)[-1500:]
            assert self._content() == before
        self._check_end(first, is_linked=self.shared != "best ones")

    def _check_end(self, place: Path, *, is_linked: bool = True) -> None:
        """Check what a run left."""
        run_dir = self.run_dir(place)
        checkpoints = self.in_common if self.shared == "checkpoints" else run_dir / "checkpoints"
        run = read_run_id(run_dir / "config.yaml")
        folders = whole_checkpoints(checkpoints)
        assert folders[-1].name == f"step_{STEPS:09}"
        assert {read_manifest(folder).provenance["run"] for folder in folders} == {run}
        best = self.in_common if self.shared == "best ones" else None
        unlike = differences(self.alone, bits(ending(run_dir, checkpoints)))
        assert not unlike, f"it differs from a run alone in {unlike}"
        link = (best or run_dir) / "best"
        assert not is_linked or link.resolve() == folders[-1].resolve()

    def _check_cache(self) -> None:
        for place in self.places:
            self._check_end(place)
        assert not unfinished(self.in_common), unfinished(self.in_common)
        kinds = list[str]()
        for folder in self.in_common.iterdir():
            manifest = read_manifest(folder)
            verify(folder, manifest)
            kinds.append(manifest.kind)
        assert len(kinds) == len(set(kinds)) > 1, kinds

    def _content(self) -> dict[str, bytes | str]:
        """Return all files and links of the common folder, but those that each start writes."""
        return {
            path.relative_to(self.in_common).as_posix(): str(path.readlink())
            if path.is_symlink()
            else path.read_bytes()
            for path in self.in_common.rglob("*")
            if path.is_symlink() or (path.is_file() and path.name not in ("LOCK", "log.txt"))
        }


def said(place: Path) -> str:
    """Return the output of a start."""
    return (place / "output").read_text()


def run_alone(corpus: Corpus, folder: Path) -> dict[str, Any]:
    """Train in an empty folder, and return the ending."""
    assert start(corpus.words({}, folder / "run"), folder) == 0, said(folder)
    return bits(ending(folder / "run"))


def bits(found: dict[str, Any]) -> dict[str, Any]:
    """Return an ending without the settings, which name folders, and the links."""
    state = {name: value for name, value in found["state"].items() if name != "config"}
    return {name: value for name, value in found.items() if name != "links"} | {"state": state}


def scenarios(progress: Progress) -> Iterator[tuple[str, Scenario]]:
    """Yield rounds, each with a race for each folder."""
    corpus = Corpus.write(progress.folder / "corpus")
    (place := progress.folder / "alone").mkdir()
    alone = run_alone(corpus, place)
    for number in range(progress.count):
        for shared in SHARED:

            def race(folder: Path, shared: str = shared) -> Counter[str]:
                Race(shared, corpus, alone, folder).run()
                return Counter([f"of {shared}"])

            yield f"{shared}, round {number}", race


if __name__ == "__main__":
    run_campaign(__doc__, scenarios, 50, "rounds; each has a race for each folder")
