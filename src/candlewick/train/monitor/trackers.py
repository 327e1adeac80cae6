r"""Trackers, which record the figures of a run: `metrics.jsonl` always, TensorBoard if the config asks for it.

    {"step": 120, "train/loss": 3.4021, "perf/tokens_per_second": 21840.5, ...}    every log_every_n_steps
    {"step": 250, "eval/loss": 3.1277, "eval/bits_per_byte": 1.921, ...}           at each evaluation
    {"step": 250, "sample/0": "def main():\n ..."}                                 what the model wrote then
    {"step": 500, "final/loss": 3.0102, "final/bits_per_byte": 1.848, ...}         at the end

One JSON object per line, written line by line but not fsynced; what could not be written is tried with the next
line. The last key, `crc32`, is the checksum of the row without it: a damaged row is not taken for another one. A
resume at step n cuts off a torn line and every row after step n. Other malformed lines stay; reading skips them,
with a warning. Figures that are not finite are null.
"""

import importlib
import json
import logging
import math
import re
import socket
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO, cast

from candlewick.errors import DataError, MachineError

METRICS = {
    "train/loss": "next-token cross-entropy in nats, with objective.label_smoothing the smoothed one: mean over "
    "the updates since the last row that were finite",
    "train/loss_ema": "exponential moving average of this loss over all updates; the newest has weight 0.1",
    "train/grad_norm": "gradient norm before clipping, of the row's last update",
    "train/skipped_steps": "updates skipped so far because a gradient was not finite",
    "train/loss_scale": "what the loss was multiplied by in fp16, of the row's last update",
    "optim/learning_rate": "learning rate of the row's last update: the schedule's multiplier times the peak",
    "perf/tokens_per_second": "tokens read per second of training since the last row, over all ranks",
    "perf/mfu_strict": "share of peak FLOP/s: 6N without the input embedding, causal attention halved",
    "perf/mfu_palm": "share of peak FLOP/s as the PaLM paper counts: 6N + 12LHQT (arXiv:2204.02311, B)",
    "perf/data_wait_share": "share of training time spent waiting for the next batch since the last row",
    "perf/evaluation_share": "share of the whole time since the last row spent evaluating and sampling",
    "perf/saving_share": "share of the whole time since the last row spent saving",
    "perf/memory_bytes": "highest device memory since the last row on CUDA, else memory in use",
    "perf/training_seconds": "time spent training so far, without evaluation and saving",
    "perf/eta_seconds": "expected time until the end, evaluation and saving included",
    "data/tokens": "tokens read so far, over all ranks: rows times their length, whether or not a loss counts",
    "data/epoch": "passes over the training tokens so far",
    "eval/loss": "mean cross-entropy on the validation split, or max_tokens of it, in nats per token",
    "eval/perplexity": "exp(eval/loss)",
    "eval/accuracy": "share of validation tokens that were the likeliest",
    "eval/tokens": "validation tokens that were predicted",
    "eval/bits_per_byte": "validation loss in bits per UTF-8 byte of text: comparable between tokenizers",
    "eval/NAME/loss": "the same five for each of data.validation_sets, by its name",
    "eval/NAME/perplexity": "exp(eval/NAME/loss)",
    "eval/NAME/accuracy": "share of its tokens that were the likeliest",
    "eval/NAME/tokens": "its tokens that were predicted",
    "eval/NAME/bits_per_byte": "its loss in bits per UTF-8 byte",
    "final/loss": "the same five after the last update, on all of the validation split",
    "final/perplexity": "exp(final/loss)",
    "final/accuracy": "share of validation tokens that were the likeliest",
    "final/tokens": "validation tokens that were predicted: all of them",
    "final/bits_per_byte": "validation loss in bits per UTF-8 byte of text",
    "final/NAME/loss": "the same for each of data.validation_sets, by its name",
    "final/NAME/perplexity": "exp(final/NAME/loss)",
    "final/NAME/accuracy": "share of its tokens that were the likeliest",
    "final/NAME/tokens": "its tokens that were predicted: all of them",
    "final/NAME/bits_per_byte": "its loss in bits per UTF-8 byte",
    "stats/PART/weight_rms": "root mean square of the weights of a part: embedding, layers.0 and so on, head",
    "stats/PART/gradient_rms": "root mean square of their gradients, clipped",
    "stats/PART/activation_rms": "root mean square of what the part puts out; not of the head",
    "stats/PART/activation_max": "largest magnitude of what the part puts out",
}
"""Every figure that a run records: name and meaning. NAME is a validation set, PART a part of the model."""

_FLUSH_SECONDS = 10.0
_MAX_LINE_BYTES = 64 << 20
_CHECKSUM = re.compile(rb', "crc32": "([0-9a-f]{8})"}\n$')

logger = logging.getLogger(__name__)


class AppendedFile:
    """Appends to a file. What could not be written is kept, and is first at the next try; no byte comes twice."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._unwritten = b""

    def write(self, content: bytes) -> None:
        """Keep some bytes for the next `flush`."""
        self._unwritten += content

    def flush(self) -> None:
        """Write what is not in the file yet. Raises OSError that names the file; then some is left."""
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]
        except OSError as error:
            error.filename = error.filename or str(self._path)  # a full disk names no file
            raise

    def close(self) -> None:
        """Write what is left, and close the file. Raises OSError."""
        try:
            self.flush()
        finally:
            self._file.close()


class JsonlTracker:
    """Appends rows to a JSON-lines file. With `resume_step`, keeps the rows up to that step; else starts anew."""

    def __init__(self, path: Path, *, resume_step: int | None = None) -> None:
        if resume_step is None:
            path.unlink(missing_ok=True)
        # the evaluation after the last save comes again when a finished run is resumed
        self._kept = [] if resume_step is None or not path.exists() else _cut(path, resume_step)
        self._file = AppendedFile(path)

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Append one row. Raises ValueError for a name that is not in METRICS."""
        if unknown := {name for name in row if metric_of(name) not in METRICS}:
            raise ValueError(f"not in METRICS of train/monitor/trackers.py: {', '.join(sorted(unknown))}")
        self._write(step, {name: value if math.isfinite(value) else None for name, value in row.items()})

    def text(self, step: int, name: str, text: str) -> None:
        """Append one row with a text."""
        self._write(step, {name: text})

    def has(self, step: int, row: Mapping[str, float | str]) -> bool:
        """Return whether the file had a row when the run was resumed: its last evaluation comes again."""
        return {"step": step, **row} in self._kept

    def flush(self) -> None:
        """Write what is left of the rows. Raises OSError."""
        self._file.flush()

    def close(self) -> None:
        """Write what is left, and close the file. Raises OSError."""
        self._file.close()

    def _write(self, step: int, values: Mapping[str, float | str | None]) -> None:
        self._file.write(_line({"step": step, **values}))
        self._file.flush()


class TensorBoardTracker:
    """Writes a TensorBoard event file every 10 seconds, or after each `flush_every` rows; see `JsonlTracker`.

    TensorBoard's own writer loses what it could not write, and all that follows, so only its records are taken.
    """

    def __init__(self, folder: Path, *, resume_step: int | None = None, flush_every: int | None = None) -> None:
        try:
            records = importlib.import_module("torch.utils.tensorboard").RecordWriter
            self._summary: Any = importlib.import_module("torch.utils.tensorboard.summary")
            self._events: Any = importlib.import_module("tensorboard.compat.proto.event_pb2")
        except (ImportError, TypeError) as error:  # the latter from a protobuf that does not fit
            raise MachineError(
                f"runtime.logging.tensorboard needs the package tensorboard: {error}",
                "pip install 'candlewick[tensorboard]', or set runtime.logging.tensorboard=false",
            ) from None
        # files are read in the order of their names
        self._file = AppendedFile(folder / f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}")
        self._records: Any = records(self._file)
        self._flush_every, self._rows, self._flushed_at = flush_every, 0, time.monotonic()
        first = 0 if resume_step is None else resume_step + 1
        self._record(first, file_version="brain.Event:2")
        if resume_step is not None:  # what older files have from this step on is not shown any more
            began = self._events.SessionLog(status=self._events.SessionLog.START)
            self._record(first, session_log=began)
        self.flush()

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Record each figure as a scalar."""
        for name, value in row.items():
            self._record(step, summary=self._summary.scalar(name, value))
        self._rows += 1
        if self._flush_every is None:
            is_due = time.monotonic() - self._flushed_at >= _FLUSH_SECONDS
        else:
            is_due = self._rows % self._flush_every == 0
        if is_due:
            self.flush()

    def text(self, step: int, name: str, text: str) -> None:
        """Record a text; indented, because TensorBoard shows Markdown."""
        indented = "".join(f"    {line}\n" for line in text.splitlines())
        self._record(step, summary=self._summary.text(name, indented))

    def flush(self) -> None:
        """Write what is left of the rows. Raises OSError."""
        self._flushed_at = time.monotonic()
        self._file.flush()

    def close(self) -> None:
        """Write what is left, and close the event file. Raises OSError."""
        self._file.close()

    def _record(self, step: int, **what: Any) -> None:
        event = self._events.Event(wall_time=time.time(), step=step, **what)
        self._records.write(event.SerializeToString())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics file. Raises DataError when it is missing."""
    return list(iterate_metrics(path))


def iterate_metrics(path: Path, last_bytes: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a metrics file, or those in its last bytes. Raises DataError when it is missing."""
    if not path.is_file():
        raise DataError(f"{path} is missing: no run has logged there", "give the run folder's metrics.jsonl")
    start = 0 if last_bytes is None else max(0, path.stat().st_size - last_bytes)
    yield from (row for row, _ in _rows(path, start))


def _cut(path: Path, resume_step: int) -> list[dict[str, Any]]:
    """Truncate after the last row before one of a later step; return the rows of `resume_step`."""
    size, end, last_rows = path.stat().st_size, 0, list[dict[str, Any]]()
    for row, end in takewhile(lambda pair: pair[0]["step"] <= resume_step, _rows(path)):  # noqa: B007
        if row["step"] == resume_step:
            last_rows.append(row)
    if end < size:
        logger.info("%s: %d bytes written after step %d are cut off", path, size - end, resume_step)
        with path.open("r+b") as file:
            file.truncate(end)
    return last_rows


def _line(row: Mapping[str, object]) -> bytes:
    """Return the line of a row, with its checksum."""
    text = json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    return b'%s, "crc32": "%08x"}\n' % (text[:-1], zlib.crc32(text))


def _parse(line: bytes, *, needs_checksum: bool) -> tuple[dict[str, Any] | None, bool]:
    """Return the row of a line, None for a damaged one, and whether it has a checksum; old rows have none."""
    found = _CHECKSUM.search(line)
    text = line[: found.start()] + b"}" if found else line
    is_whole = int(found[1], 16) == zlib.crc32(text) if found else line.endswith(b"\n") and not needs_checksum
    row: object = None
    with suppress(ValueError, RecursionError):
        row = json.loads(text) if is_whole else None
    match row:
        case {"step": int()}:
            return cast("dict[str, Any]", row), found is not None
        case _:
            return None, found is not None


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file; of one that is longer than a row can be its pieces, of which none is a row."""
    while line := file.readline(_MAX_LINE_BYTES):
        yield line


def _rows(path: Path, start: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield (row, offset after its line), from the first line at or after `start` on.

    Skip malformed lines; warn about the first one that a row follows.
    """
    offset = damaged = 0
    has_warned = has_checksums = False
    with path.open("rb") as file:
        if start:
            file.seek(start - 1)
            offset = start - 1 + len(file.readline(_MAX_LINE_BYTES))
        for number, line in enumerate(_lines(file), start=1):
            offset += len(line)
            row, has_checksum = _parse(line, needs_checksum=has_checksums)
            if row is None:
                damaged = damaged or number
                continue
            has_checksums |= has_checksum
            if damaged and not has_warned:
                has_warned = True
                logger.warning("%s line %d is not a row of metrics: the file was damaged or edited", path, damaged)
            yield row, offset


def metric_of(name: str) -> str:
    """Return the name in METRICS of a figure; there NAME stands for a set, PART for a part of the model."""
    name = re.sub(r"(eval|final)/\w+/", r"\1/NAME/", name)
    return re.sub(r"stats/(embedding|layers\.\d+|head)/", "stats/PART/", name)
