"""The campaign of kills over training: runs that are killed at random and started again, and always the same end.

    python -m tests.faults.kills --count 1000 --seed 0

Ten configurations take turns. A run is started with `--resume auto`, killed (SIGKILL) before one of the calls by
which it changes files, in the middle of a write, or at any time at all, and started again until it ends. Then
weights, optimizer, counters, random state, rows of metrics, links to the best checkpoints and what TensorBoard
shows are those of a run that nothing disturbed, bit by bit, and nothing unfinished is left in its folders.
"""

import os
import random
import signal
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.faults.calls import watched_calls
from tests.faults.campaign import Progress, Scenario, run_campaign
from tests.faults.training import STEPS, Corpus, differences, ending, start, unfinished, whole_checkpoints
from tests.records.runs import cases

from candlewick.runs import complete

_CASES = dict(cases(Path("TEXT")))
_PLACES = {"runtime.checkpoint.directory": "RUN/saved", "runtime.evaluation.best.directory": "RUN/best-ones"}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "adam_w with windows of shuffling": _CASES["adam_w-chunk"] | _CASES["window-order"],
    "muon with dropout": _CASES["dropout"],
    "averages of sgd": {"optimizer.algorithm": "sgd", "optimizer.ema_decay": 0.9},
    "bf16 with recomputing": _CASES["bf16"] | _CASES["recompute"],
    "fp16": _CASES["fp16"],
    "packed documents": _CASES["muon-bfd-mask"],
    "mixture": _CASES["mixture"],
    "chat": _CASES["chat"],
    "batch ramp": {
        "data.micro_batch_size": 2,
        "data.global_batch_size": 8,
        "data.batch_ramp": [{"steps": 2, "global_batch_size": 2}, {"steps": 3, "global_batch_size": 4}],
    },
    "folders and TensorBoard": {
        **_PLACES,
        "runtime.evaluation.best.max_keep": 2,
        "runtime.evaluation.every_n_steps": 2,
        "runtime.logging.tensorboard": True,
        "runtime.logging.tensorboard_flush_every_n": 3,
    },
}
_KILLED = -signal.SIGKILL
_MOST_STARTS = 200
_LONGEST_SECONDS = 0.6  # about those of a start


@dataclass
class Kill:
    """Kills the process before one of its calls, or after half of a write; 0: counts the calls.

    Counted is from when the text is prepared, so that every start of a run has the same ones.
    """

    number: int
    halves: bool = False
    calls: int = 0
    is_counting: bool = False

    @contextmanager
    def __call__(self, folder: Path) -> Generator[None]:
        """Watch the calls while the block runs; then write how many there were to `folder`/calls."""
        train_prepared = complete.train_prepared

        def counted(prepared: Any) -> Any:
            self.is_counting = True
            return train_prepared(prepared)

        with pytest.MonkeyPatch.context() as patch, watched_calls(self._meet):
            patch.setattr(complete, "train_prepared", counted)
            yield
            self.is_counting = False
        (folder / "calls").write_text(str(self.calls))

    def _meet(self, name: str, what: Any) -> int | None:
        if not self.is_counting:
            return None
        self.calls += 1
        if self.calls == self.number and self.halves and name == "write" and len(what) > 1:
            self.number += 1  # the rest of it
            return len(what) // 2
        if self.calls == self.number:
            os.kill(os.getpid(), signal.SIGKILL)
        return None


@dataclass(frozen=True)
class Run:
    """A configuration, what its undisturbed run left, and how many calls it made."""

    name: str
    corpus: Corpus
    ending: dict[str, Any]
    calls: int

    @classmethod
    def undisturbed(cls, name: str, corpus: Corpus, folder: Path) -> "Run":
        """Run a configuration to its end in an empty folder."""
        code = start(corpus.words(CONFIGURATIONS[name], folder / "run"), folder, Kill(0))
        assert code == 0, (folder / "output").read_text()[-1500:]
        return cls(name, corpus, _end(name, folder), int((folder / "calls").read_text()))

    def scenario(self, seed: int, most_kills: int, folder: Path) -> Counter[str]:
        """Run it in an empty folder, killed at most so often; count the kills.

        Raises AssertionError if it does not end as it must.
        """
        choose = random.Random(f"{self.name} {seed}")
        words = [*self.corpus.words(CONFIGURATIONS[self.name], folder / "run"), "--resume", "auto"]
        kills = 0
        for _ in range(_MOST_STARTS):
            number, seconds = 0, None
            if kills < most_kills and choose.random() < 0.25:
                seconds = choose.uniform(0, _LONGEST_SECONDS)
            elif kills < most_kills:
                number = choose.choice((choose.randint(1, self.calls), int(self.calls ** choose.random())))
            code = start(words, folder, Kill(number, choose.random() < 0.5), seconds)
            said = output.read_text() if (output := folder / "output").exists() else ""
            as_it_must = code in (0, _KILLED) and "Traceback" not in said
            assert as_it_must, f"{self._about(seed)}: exit code {code}: {said[-1500:]}"
            whole_checkpoints(folder / "run" / _checkpoints(self.name))
            if code == 0:
                break
            kills += 1
        assert code == 0, f"{self._about(seed)}: it never ends"
        unlike = differences(self.ending, _end(self.name, folder))
        assert not unlike, f"{self._about(seed)}, after {kills} kills: the end differs in {unlike}"
        left = unfinished(folder / "run")
        assert not left, f"{self._about(seed)}, after {kills} kills: {left} are left"
        return Counter({"killed and the same" if kills else "undisturbed": 1, "kills": kills})

    def _about(self, seed: int) -> str:
        return f"{self.name}, seed {seed}"


def _checkpoints(name: str) -> str:
    return "saved" if "runtime.checkpoint.directory" in CONFIGURATIONS[name] else "checkpoints"


def _end(name: str, folder: Path) -> dict[str, Any]:
    run = folder / "run"
    is_elsewhere = "runtime.evaluation.best.directory" in CONFIGURATIONS[name]
    found = ending(run, run / _checkpoints(name), run / "best-ones" if is_elsewhere else None)
    assert found["checkpoint"] == f"step_{STEPS:09}"
    return found


def scenarios(progress: Progress) -> Iterator[tuple[str, Scenario]]:
    """Yield the runs, one configuration after the other, until there were as many kills as wanted."""
    corpus = Corpus.write(progress.folder / "corpus")
    runs = list[Run]()
    for name in CONFIGURATIONS:
        (place := progress.folder / name).mkdir()
        runs.append(Run.undisturbed(name, corpus, place))
    for number in count():
        if (left := progress.count - progress.tally["kills"]) <= 0:
            break
        run = runs[number % len(runs)]
        yield run.name, partial(run.scenario, progress.seed + number // len(runs), min(8, left))


if __name__ == "__main__":
    run_campaign(__doc__, scenarios, 1000, "kills", seed="of the first run of each configuration")
