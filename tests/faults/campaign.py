"""The loop of every campaign: scenarios, each in an empty folder, a line that counts them, and an exit code."""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

Scenario = Callable[[Path], Counter[str]]
"""Runs in an empty folder and counts what happened. Raises AssertionError where the campaign's law is broken."""

_MOST_FAILURES = 20


@dataclass(frozen=True)
class Progress:
    """What a campaign is asked for, a folder for what its scenarios share, and what happened so far."""

    count: int
    seed: int
    folder: Path
    tally: Counter[str] = field(default_factory=Counter[str])


Scenarios = Callable[[Progress], Iterator[tuple[str, Scenario]]]
"""Yields each scenario with its name."""


def numbered(scenario: Callable[[int, Path], Counter[str]]) -> Scenarios:
    """Return the scenarios that are made from their numbers, from the random seed on."""

    def scenarios(progress: Progress) -> Iterator[tuple[str, Scenario]]:
        for number in range(progress.seed, progress.seed + progress.count):
            yield f"scenario {number}", lambda folder, number=number: scenario(number, folder)

    return scenarios


def run_campaign(about: str | None, scenarios: Scenarios, count: int, unit: str, seed: str | None = None) -> None:
    """Run what the command line asks for, and exit: with 1 if a scenario failed, the last one after 20.

    `count` of these units is the default; `seed` tells what `--seed` decides (None: nothing, so it is no option).
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=count, help=f"how many {unit}")
    parser.set_defaults(seed=0)
    if seed is not None:
        parser.add_argument("--seed", type=int, help=seed)
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        progress = Progress(args.count, args.seed, Path(temporary))
        tally, place = progress.tally, progress.folder / "scenario"
        for number, (name, scenario) in enumerate(scenarios(progress), 1):
            place.mkdir()
            try:
                tally.update(scenario(place))
            except AssertionError as error:
                tally["failed"] += 1
                print(f"\n{name}: {str(error)[:2000]}", flush=True)
            shutil.rmtree(place)
            counts = ", ".join(f"{count} {what}" for what, count in sorted(tally.items()))
            print(f"\r{counts}; {(time.monotonic() - began) / number:.2f} s each", end="", flush=True)
            if tally["failed"] == _MOST_FAILURES:
                break
    print()
    sys.exit(1 if tally["failed"] else 0)
