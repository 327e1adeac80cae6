"""TensorBoard files of a run that was recorded without them, from its metrics.jsonl."""

from pathlib import Path

from candlewick.errors import ArtifactError
from candlewick.runs.history import METRICS_FILE
from candlewick.train.monitor.trackers import TensorBoardTracker, iterate_metrics


def write_events(run_dir: Path, folder: Path) -> None:
    """Write an event file of all rows into a folder; its times are those of writing, not of the run.

    Raises DataError for a run without metrics, ArtifactError for a folder with event files, and MachineError where
    TensorBoard is not installed.
    """
    rows = list(iterate_metrics(run_dir / METRICS_FILE))
    if any(folder.glob("events.out.tfevents.*")):
        raise ArtifactError(f"{folder} has TensorBoard files, and curves would be twice", "give another folder")
    tracker = TensorBoardTracker(folder)
    try:
        for row in rows:
            step = row.pop("step")
            tracker.log(step, {name: value for name, value in row.items() if isinstance(value, int | float)})
            for name, value in row.items():
                if isinstance(value, str):
                    tracker.text(step, name, value)
    finally:
        tracker.close()
