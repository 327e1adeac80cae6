"""What a run folder says of its run, read once: settings, text, counters, figures, samples. Nothing needs torch.

    RUN/config.yaml  run.json  metrics.jsonl    CHECKPOINT/training/state.json of the newest checkpoint

A folder may be a stranger's, or damaged: what is not there, or of another shape, is left out.
"""

import json
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from candlewick.artifacts.manifest import read_bounded
from candlewick.checkpoint.layout import STATE, checkpoint_directory, list_checkpoints
from candlewick.config import RunConfig
from candlewick.config.load import load_config
from candlewick.train.monitor.trackers import METRICS, iterate_metrics, metric_of

RECORD, METRICS_FILE = "run.json", "metrics.jsonl"
_UNITS = ("steps", "tokens", "epochs", "seconds")


class TextSide(BaseModel):
    """The files of the training or of the validation text; `files` are the first of them: name, bytes, hash."""

    num_files: int
    bytes: int
    files: list[tuple[str, int, str]]


class TextRecord(BaseModel):
    """A dataset of a run: where its text is from, and how many documents, bytes and tokens each split has."""

    sources: list[str]
    dataset: str
    splits: dict[str, dict[str, int | None]]
    files: dict[str, TextSide] = {}


class RunRecord(BaseModel):
    """The content of `run.json`, see `runs.record`."""

    model_config = ConfigDict(extra="ignore")

    run: str = ""
    parameters: int | None = None
    tokenizer: str = ""
    text: dict[str, TextRecord] = {}
    starts: list[dict[str, str | int | float | None]] = []

    @property
    def sources(self) -> list[str]:
        """Where the text is from: of places on this machine the last part of the path."""
        named = dict.fromkeys(uri for text in self.text.values() for uri in text.sources)
        return [uri if "://" in uri else Path(uri).name for uri in named]


class Curve(NamedTuple):
    """A figure by step, in the order of the file; NaN stands for a value that was not finite."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]

    @property
    def finite(self) -> "Curve":
        """The points that are finite."""
        kept = np.isfinite(self.values)
        return Curve(self.steps[kept], self.values[kept])

    @property
    def last(self) -> float | None:
        """The last finite value."""
        values = self.finite.values
        return values[-1].item() if len(values) else None

    def thinned(self, max_points: int) -> "Curve":
        """Return at most so many points: the first, the last, and of equal ranges of steps least and largest."""
        steps, values = self.finite
        if len(steps) <= max_points:
            return Curve(steps, values)
        bins = max(1, max_points // 2 - 1)
        numbers = ((steps - steps[0]) / ((steps[-1] - steps[0]) or 1.0) * bins).astype(np.int64).clip(0, bins - 1)
        ordered = np.lexsort((values, numbers))  # by bin, then by value
        edges = np.flatnonzero(np.diff(numbers[ordered], prepend=-1, append=bins))
        kept = np.unique([0, len(steps) - 1, *ordered[edges[:-1]], *ordered[edges[1:] - 1]])
        return Curve(steps[kept], values[kept])


_NOTHING = Curve(np.empty(0), np.empty(0))


@dataclass(frozen=True)
class RunHistory:
    """One run, as its folder tells it."""

    folder: Path
    config: RunConfig
    record: RunRecord
    state: Mapping[str, Any]  # the newest checkpoint's state.json
    checkpoint: Path | None  # the newest one
    figures: Mapping[str, Curve] = field(default_factory=dict[str, Curve])
    samples: Mapping[int, list[str]] = field(default_factory=dict[int, list[str]])  # by step

    @classmethod
    def read(cls, folder: Path, *, last_bytes: int | None = None) -> "RunHistory":
        """Read a run folder, with `last_bytes` only so much of its metrics.

        Raises ConfigError or DataError for a folder that is no run's.
        """
        config = load_config(folder / "config.yaml")
        figures, samples = read_figures(iterate_metrics(folder / METRICS_FILE, last_bytes))
        newest = newest_checkpoint(folder, config)
        return cls(folder, config, read_record(folder), read_state(newest), newest, figures, samples)

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name

    def figure(self, name: str) -> Curve:
        """Return a figure by step; an empty curve, if it was never recorded."""
        return self.figures.get(name, _NOTHING)

    @property
    def counters(self) -> dict[str, Any]:
        """The counters of the newest checkpoint."""
        return counters_of(self.state)

    @cached_property
    def steps(self) -> int:
        """The updates that were made, as far as they were recorded."""
        recorded = self.figure("train/loss").steps
        return max(int(recorded[-1]) if len(recorded) else 0, self.counters.get("step", 0))

    @property
    def total_steps(self) -> int | None:
        """The updates that the run is to make; None until its time budget has become a number."""
        return self.counters.get("total_steps") or self.config.scheduler.total_steps

    @property
    def evaluation(self) -> tuple[str, dict[str, float]]:
        """The last evaluation, "final" of all of the text or "eval" of a part, and its figures by name."""
        kind = "final" if self.figure("final/loss").last is not None else "eval"
        pairs = ((name, curve.last) for name, curve in self.figures.items() if name.startswith(f"{kind}/"))
        return kind, {name.partition("/")[2]: value for name, value in pairs if value is not None}

    def smoothed(self, window_tokens: float | NDArray[np.float64]) -> Curve:
        """Return the mean training loss over so many tokens, one number or one for each loss, up to each step."""
        loss = self.figure("train/loss").finite
        tokens = self.tokens_at(loss.steps)
        sums = np.cumsum([0.0, *loss.values])
        ends = np.arange(1, len(loss.steps) + 1)
        starts = np.minimum(np.searchsorted(tokens, tokens - window_tokens, side="right"), ends - 1)
        return Curve(loss.steps, (sums[ends] - sums[starts]) / (ends - starts))

    def tokens_at(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the tokens that were read up to each step: 0 without a count."""
        counts = self.figure("data/tokens").finite
        return np.interp(steps, *counts) if len(counts.steps) else np.zeros(len(steps))


def read_figures(rows: Iterable[dict[str, Any]]) -> tuple[dict[str, Curve], dict[int, list[str]]]:
    """Return the figures of rows of metrics, and the samples by step."""
    columns: dict[str, tuple[array[float], array[float]]] = defaultdict(lambda: (array("d"), array("d")))
    samples: dict[int, dict[str, str]] = defaultdict(dict)
    for row in rows:
        step = _as_float(row["step"])
        for name, value in row.items():
            if name.startswith("sample/") and isinstance(value, str):
                samples[row["step"]][name] = value
            elif (value is None or isinstance(value, (int, float))) and _is_metric(name):
                steps, values = columns[name]
                steps.append(step)
                values.append(_as_float(value))
    figures = {name: Curve(*(np.array(column, np.float64) for column in pair)) for name, pair in columns.items()}
    return figures, {step: list(texts.values()) for step, texts in samples.items()}


@lru_cache(maxsize=1000)
def _is_metric(name: str) -> bool:
    return metric_of(name) in METRICS


def _as_float(value: float | None) -> float:
    return np.nan if value is None or abs(value) >= 1 << 63 else float(value)


def read_record(folder: Path) -> RunRecord:
    """Return the record of a run; an empty one, if it has none or another shape."""
    try:
        return RunRecord.model_validate_json(read_bounded(folder / RECORD))
    except (OSError, ValueError):
        return RunRecord()


def newest_checkpoint(folder: Path, config: RunConfig) -> Path | None:
    """Return the newest checkpoint of a run, unverified."""
    return next(
        reversed(list_checkpoints(checkpoint_directory(folder, config.runtime.checkpoint.directory))), None
    )


def read_state(checkpoint: Path | None) -> dict[str, Any]:
    """Return the state.json of a checkpoint; an empty one, if it has none."""
    for name in (STATE, Path(STATE).name) if checkpoint is not None else ():  # the second one in version 1
        try:
            state = json.loads(read_bounded(cast(Path, checkpoint) / name))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(state, dict):
            return cast("dict[str, Any]", state)
    return {}


def counters_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counters of a state.json that are numbers."""
    counters = state.get("counters")
    pairs = cast("dict[str, Any]", counters).items() if isinstance(counters, dict) else ()
    return {name: value for name, value in pairs if isinstance(value, int | float)}


def planned_end(config: RunConfig) -> str:
    """Return the end of a run as its settings say: `2,000 steps`, `60 seconds`."""
    ends = ((getattr(config.scheduler, f"total_{unit}"), unit) for unit in _UNITS)
    return next((f"{value:,g} {unit}" for value, unit in ends if value is not None), "")
