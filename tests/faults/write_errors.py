"""The campaign over errors of the system: each call by which a training run changes files fails once, in each way.

    python -m tests.faults.write_errors --count 100000 --seed 0

An undisturbed run counts its calls, from the first one of the loop on: of checkpoints, links to the best one,
metrics, TensorBoard, log and terminal. Then a run for each call and each error is made in a folder of its own, in
which that call fails. The law: at that moment, and at the end, what was saved before is whole; the run goes on, or
if it was its last save ends with exit code 4 and one line; and either it or its resume ends with the bits of the
undisturbed one. `--count` takes so many of the pairs of call and error, at random.
"""

import errno
import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.faults.calls import watched_calls
from tests.faults.campaign import Progress, Scenario, run_campaign
from tests.faults.training import STEPS, Corpus, differences, ending, start, whole_checkpoints

from candlewick.checkpoint.layout import verify_checkpoint
from candlewick.train.trainer import Trainer

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EMFILE)
_AFTER_A_PART = (errno.ENOSPC, errno.EDQUOT)  # there was room for a part
_WRITES = ("write", "write to the terminal")
_STOP = 4  # also a step with an evaluation
_ENDED, _NOT_READ = 4, 3  # exit codes

_SAVES = {"runtime.checkpoint.every_n_steps": 5, "runtime.checkpoint.max_keep": 1}
_SHOWN = _SAVES | {
    "runtime.logging.enable_stdout": True,
    "runtime.logging.tensorboard": True,
    "runtime.logging.tensorboard_flush_every_n": 2,
    "runtime.logging.statistics_every_n_steps": 4,
}
_ELSEWHERE = {
    "runtime.checkpoint.directory": "RUN/saved",
    "runtime.checkpoint.every_n_steps": None,
    "runtime.evaluation.best.directory": "RUN/best-ones",
}


@dataclass(frozen=True)
class Scene:
    """A run, or a part of one, whose calls fail."""

    settings: dict[str, Any]
    stops: bool = False  # it is told to stop at a step
    goes_on: bool = False  # it is the second part of a run that was told to stop

    @property
    def places(self) -> tuple[str, str | None]:
        """The folder of the checkpoints and that of the best ones, below that of the run."""
        return ("saved", "best-ones") if "runtime.checkpoint.directory" in self.settings else ("checkpoints", None)


SCENES = {
    "whole": Scene(_SHOWN),
    "folders": Scene(_ELSEWHERE),
    "stopped": Scene(_SHOWN | {"runtime.checkpoint.every_n_steps": 3}, stops=True),
    "resumed": Scene(_SAVES, goes_on=True),
}


@dataclass
class Refusal:
    """Makes one call of the loop fail, and checks then that what was saved is whole; 0: counts the calls.

    With `stops` the process gets SIGTERM at a step.
    """

    number: int
    error: int
    scene: Scene
    counted: list[str] = field(default_factory=list)
    is_counting: bool = False
    has_written_a_part: bool = False

    @contextmanager
    def __call__(self, folder: Path) -> Generator[None]:
        """Watch the calls while the block runs; then write their names to `folder`/calls."""
        run, plan_end = Trainer.run, Trainer._set_total_steps

        def counted_run(trainer: Trainer) -> Any:
            self.is_counting = True
            return run(trainer)

        def stop(trainer: Trainer) -> None:
            plan_end(trainer)
            if self.scene.stops and trainer.state.step == _STOP:
                os.kill(os.getpid(), signal.SIGTERM)

        def meet(name: str, what: Any) -> int | None:
            if not self.is_counting:
                return None
            if name in _WRITES and self.has_written_a_part:
                self.has_written_a_part = False
                raise OSError(self.error, os.strerror(self.error))
            self.counted.append(name)
            if len(self.counted) != self.number:
                return None
            self.is_counting = False
            directory = folder / "run" / self.scene.places[0]
            if (directory / "journal.jsonl").is_file() and (directory / "journal.jsonl").stat().st_size:
                # one that is being replaced is put back at the next start
                replaced = [verify_checkpoint(folder) for folder in directory.glob(".old-step_*")]
                assert whole_checkpoints(directory) or replaced, "there is no checkpoint at that moment"
            self.is_counting = True
            if name in _WRITES and self.error in _AFTER_A_PART and len(what) > 1:
                self.has_written_a_part = True
                return len(what) // 2
            raise OSError(self.error, os.strerror(self.error))

        with pytest.MonkeyPatch.context() as patch, watched_calls(meet):
            patch.setattr(Trainer, "run", counted_run)
            patch.setattr(Trainer, "_set_total_steps", stop)
            patch.setattr(sys, "stderr", open(2, "w", buffering=1, closefd=False))  # noqa: SIM115
            yield
            self.is_counting = False
        (folder / "calls").write_text("\n".join(self.counted))


@dataclass
class Campaign:
    """The scenes, each with the calls and the ending of its undisturbed run."""

    folder: Path

    def __post_init__(self) -> None:
        self.corpus = Corpus.write(self.folder / "corpus")
        self.calls = dict[str, list[str]]()
        self.endings = dict[str, dict[str, Any]]()
        self.stopped = self.folder / "first-part"  # the first part of a run
        self.stopped.mkdir()
        words = self.corpus.words(SCENES["resumed"].settings, self.stopped / "run")
        assert start(words, self.stopped, Refusal(0, 0, Scene({}, stops=True))) == 5, self._said(self.stopped)
        for name in SCENES:
            folder = self.folder / name
            code = self._start(name, folder, 0, 0)
            assert code == (5 if SCENES[name].stops else 0), self._said(folder)
            self.calls[name] = (folder / "calls").read_text().split("\n")
            self.endings[name] = self._end(name, folder, code)

    def pairs(self) -> list[tuple[str, int, int]]:
        """Return scene, number of the call and error of every disturbed run."""
        numbers = [(name, number + 1) for name, calls in self.calls.items() for number in range(len(calls))]
        return [(*pair, error) for pair in numbers for error in ERRORS]

    def scenario(self, name: str, number: int, error: int, folder: Path) -> Counter[str]:
        """Run one; count how it went. Raises AssertionError if it is not as the law says."""
        call = self.calls[name][number - 1]
        about = f"{name}, call {number} ({call}), {errno.errorcode[error]}"
        code, said = self._start(name, folder, number, error), self._said(folder)
        assert "Traceback" not in said, f"{about}: {said[-1500:]}"
        went_on = code == (5 if SCENES[name].stops else 0)
        ended = code == _ENDED or (code == _NOT_READ and call == "open to read")
        assert went_on or ended, f"{about}: exit code {code}: {said[-500:]}"
        errors = sum(line.startswith(("error:", "stopped by ")) for line in said.splitlines())
        is_told = call != "write to the terminal"  # whose failure may be that of this line
        assert errors == (1 if code and is_told else min(code, errors, 1)), f"{about}: {said[-500:]}"
        assert whole_checkpoints(folder / "run" / SCENES[name].places[0]), f"{about}: nothing is saved"
        unlike = differences(self.endings[name], self._end(name, folder, code))
        assert not unlike, f"{about}: the end differs in {unlike}: {said[-1500:]}"
        return Counter(["went on" if went_on else "ended"])

    def _start(self, name: str, folder: Path, number: int, error: int) -> int:
        scene = SCENES[name]
        folder.mkdir(exist_ok=True)
        if scene.goes_on:
            shutil.copytree(self.stopped / "run", folder / "run", symlinks=True)
        words = self.corpus.words(scene.settings, folder / "run")
        return start(
            [*words, *(["--resume", "auto"] if scene.goes_on else [])], folder, Refusal(number, error, scene)
        )

    def _end(self, name: str, folder: Path, code: int) -> dict[str, Any]:
        """Return the ending of a run, which goes on first if it stopped."""
        if code:
            assert start(["train", "--resume", "--run-dir", str(folder / "run")], folder) == 0, self._said(folder)
        checkpoints, best = SCENES[name].places
        found = ending(folder / "run", folder / "run" / checkpoints, folder / "run" / best if best else None)
        assert found["checkpoint"] == f"step_{STEPS:09}"
        return found

    @staticmethod
    def _said(folder: Path) -> str:
        return (folder / "output").read_text()


def scenarios(progress: Progress) -> Iterator[tuple[str, Scenario]]:
    """Yield the runs of pairs of call and error, at random."""
    campaign = Campaign(progress.folder)
    pairs = campaign.pairs()
    calls = ", ".join(f"{len(calls)} calls of {name}" for name, calls in campaign.calls.items())
    print(f"{calls}: {len(pairs)} pairs of call and error")
    for pair in random.Random(progress.seed).sample(pairs, min(progress.count, len(pairs))):
        yield "a pair", partial(campaign.scenario, *pair)


if __name__ == "__main__":
    run_campaign(__doc__, scenarios, 100_000, "pairs of call and error; most: all", seed="which pairs")
