"""The runs of a folder, each in a row. Nothing needs torch, and of long metrics only the end is read."""

import time
from dataclasses import dataclass
from pathlib import Path

from candlewick.artifacts.build import is_held
from candlewick.config.load import load_config
from candlewick.errors import CandlewickError, ConfigError
from candlewick.runs.history import METRICS_FILE, RECORD, RunHistory, newest_checkpoint, read_record, read_state

_MARKS = ("config.yaml", RECORD, METRICS_FILE)
_LAST_BYTES = 1 << 20


@dataclass(frozen=True)
class RunRow:
    """One run. `state` is running, finished, stopped or damaged; with `problem` it says why."""

    name: str
    path: str
    state: str
    changed: float  # seconds since 1970
    age_seconds: float
    text: list[str]
    parameters: int | None = None
    steps: int = 0
    total_steps: int | None = None
    bits_per_byte: float | None = None
    problem: str | None = None


def list_runs(directory: Path) -> list[RunRow]:
    """Return the runs in a folder, or the run that it is, the youngest first. Raises ConfigError for no folder."""
    if not directory.is_dir():
        raise ConfigError(f"there is no folder {directory}", "train a run first, or give the folder of the runs")
    folders = [directory] if _is_run(directory) else [path for path in directory.iterdir() if _is_run(path)]
    return sorted(map(_row, folders), key=lambda row: (-row.changed, row.name))


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _MARKS)


def _row(folder: Path) -> RunRow:
    changed = max((folder / name).stat().st_mtime for name in _MARKS if (folder / name).is_file())
    name, age = folder.resolve().name, max(0.0, time.time() - changed)
    state = "running" if is_held(folder) else "stopped"
    record = read_record(folder)
    try:
        history = _read(folder)
    except (CandlewickError, OSError, ValueError) as error:
        problem = error.problem if isinstance(error, CandlewickError) else str(error)
        state = "damaged" if state == "stopped" else state
        return RunRow(name, str(folder), state, changed, age, record.sources, record.parameters, problem=problem)
    steps, total = history.steps, history.total_steps
    if state == "stopped" and total is not None and history.counters.get("step", 0) >= total:
        state = "finished"
    bits = history.evaluation[1].get("bits_per_byte")
    size = record.parameters
    return RunRow(name, str(folder), state, changed, age, record.sources, size, steps, total, bits)


def _read(folder: Path) -> RunHistory:
    """Read a run from the end of its metrics, or from all of them if no evaluation is there."""
    if not (folder / METRICS_FILE).is_file():  # it did not train yet
        config = load_config(folder / "config.yaml")
        newest = newest_checkpoint(folder, config)
        return RunHistory(folder, config, read_record(folder), read_state(newest), newest)
    history = RunHistory.read(folder, last_bytes=_LAST_BYTES)
    is_whole = (folder / METRICS_FILE).stat().st_size <= _LAST_BYTES
    return history if is_whole or history.evaluation[1] else RunHistory.read(folder)
