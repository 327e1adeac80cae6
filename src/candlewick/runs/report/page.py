"""The report of runs: one HTML file with curves, samples, settings and origins, which loads nothing.

Names, samples and settings may be a stranger's: all text is escaped, and a content security policy allows only the
script and the style of this file, by their hashes. Long curves are thinned and long texts cut, so that the file
stays below `MAX_BYTES`.
"""

import base64
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from candlewick.artifacts.manifest import replace_durable
from candlewick.config import RunConfig
from candlewick.config.tree import differences
from candlewick.errors import CandlewickError, DataError
from candlewick.runs.history import Curve, RunHistory, planned_end
from candlewick.runs.report.chart import AXES, STYLES, Chart, Series, Style, short
from candlewick.runs.report.compare import SMOOTHED_SHARE
from candlewick.terminal import one_line, printable

REPORT = "report.html"
MAX_BYTES = 1_000_000
_MAX_POINTS, _MAX_TEXT = 14_000, 150_000  # of all curves; characters of all samples, and of each other section
_COLORS = 6  # of page.css
_PLACES = ("data.prepared", "data.cache_dir")  # that nobody chose
_MAX_CURVE_POINTS, _MAX_SAMPLES, _MAX_CHARS, _MAX_LINE, _MAX_HALVINGS = 800, 8, 2_000, 300, 8
_LINES = (  # title, unit, figure, whether the axis begins at zero, divisor
    ("Bits per byte", "of held-out text", "eval/bits_per_byte", False, 1.0),
    ("Learning rate", "", "optim/learning_rate", True, 1.0),
    ("Throughput", "tokens per second", "perf/tokens_per_second", True, 1.0),
    ("Memory", "GB", "perf/memory_bytes", True, 1e9),
    ("Gradient norm", "before clipping", "train/grad_norm", True, 1.0),
)

logger = logging.getLogger(__name__)


def write_report(folders: Sequence[Path], output: Path) -> None:
    """Write the report of run folders to a file, atomically.

    Raises ConfigError or DataError for a folder that is no run's, and for so many runs that no page can show them.
    """
    histories = [RunHistory.read(folder) for folder in folders]
    pages = (page(histories, 0.5**halvings).encode(errors="replace") for halvings in range(_MAX_HALVINGS))
    text = next((text for text in pages if len(text) <= MAX_BYTES), None)
    if text is None:
        raise DataError(f"the report would be larger than {MAX_BYTES:,} bytes", "give fewer runs")
    replace_durable(output, text)


def write_report_of_run(run_dir: Path) -> Path | None:
    """Write RUN/report.html and return its path; None, with a warning, if that fails: the run is made."""
    try:
        write_report([run_dir], run_dir / REPORT)
    except (CandlewickError, OSError) as error:
        logger.warning("the report could not be written: %s", error)
        return None
    return run_dir / REPORT


def page(histories: Sequence[RunHistory], budget: float = 1.0) -> str:
    """Return the page; `budget` is the share of the points and characters that it may have at most."""
    charts = list(_charts(histories, int(_MAX_POINTS * budget)))
    names = ", ".join(_line(history.name) for history in histories)
    body = "".join(
        [
            f"<header><h1>{names}</h1>{_summary(histories)}</header>",
            _facts(histories[0]) if len(histories) == 1 else _runs_table(histories),
            _chart_section(charts),
            _section("Samples", _samples(histories, budget)),
            _section("Settings", _settings(histories, budget)),
            _section("Origins", _origins(histories, budget)),
        ]
    )
    style, script = (Path(__file__).with_suffix(f".{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    policy = f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; base-uri 'none'"
    points = json.dumps([chart.points() for chart in charts], separators=(",", ":")).replace("<", "\\u003c")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{names}: report</title><style>{style}</style></head>\n<body><main>{body}</main>\n"
        f'<script type="application/json" id="points">{points}</script>\n<script>{script}</script></body></html>\n'
    )


def _source(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _line(value: object) -> str:
    """Return a value as HTML of one line, cut if it is long."""
    return escape(one_line(str(value)[:_MAX_LINE]))


def _section(title: str, parts: Iterable[str]) -> str:
    content = "".join(parts)
    return f"<section><h2>{title}</h2>{content}</section>" if content else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """Return a table of cells that are HTML; the last `numbers` columns are aligned to the right."""

    def line(tag: str, cells: Sequence[str]) -> str:
        first = len(head) - numbers
        kinds = ("" if column < first else ' class="number"' for column in range(len(head)))
        row = (f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(row)}</tr>"

    return f'<div class="wide"><table>{line("th", head)}{"".join(line("td", row) for row in rows)}</table></div>'


def _summary(histories: Sequence[RunHistory]) -> str:
    if len(histories) > 1:
        return f"<p>{len(histories)} runs of Candlewick, one over the other</p>"
    (history,) = histories
    start = (history.record.starts or [{}])[-1]
    parts = [_line(", ".join(history.record.sources))]
    parts += [_line(history.state.get("device", start.get("device") or "")), _time(start)]
    return f"<p>{' · '.join(part for part in parts if part)}</p>"


def _time(start: Mapping[str, Any]) -> str:
    """Return the minute of a start, which is in UTC."""
    return f"<time>{_line(str(start.get('time') or '')[:16].replace('T', ' '))}</time>"


def _figures(history: RunHistory) -> dict[str, str]:
    """Return the main figures of a run by their names."""
    _, evaluated = history.evaluation
    tokens, seconds = (history.figure(name).last for name in ("data/tokens", "perf/training_seconds"))
    total = history.total_steps
    return {
        "Bits per byte": _number(evaluated.get("bits_per_byte"), ".3f"),
        "Validation loss": _number(evaluated.get("loss"), ".3f"),
        "Perplexity": _number(evaluated.get("perplexity"), ",.4g"),
        "Parameters": _number(history.record.parameters, ",d"),
        "Steps": f"{history.steps:,} of {planned_end(history.config) if total is None else f'{total:,}'}",
        "Tokens read": _number(tokens, ",.0f"),
        "Time in training": _duration(history.counters.get("train_seconds", seconds)),
        "Tokens per second": _number(tokens / seconds if tokens and seconds else None, ",.0f"),
    }


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)  # noqa: RUF001 - the dash of empty cells


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"  # noqa: RUF001
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _facts(history: RunHistory) -> str:
    rows = (f"<div><dt>{name}</dt><dd>{_line(value)}</dd></div>" for name, value in _figures(history).items())
    return f'<dl class="facts">{"".join(rows)}</dl>'


def _runs_table(histories: Sequence[RunHistory]) -> str:
    figures = [_figures(history) for history in histories]
    rows = [
        [f'<span class="key color-{number % _COLORS}">{_line(history.name)}</span>', *map(_line, shown.values())]
        for number, (history, shown) in enumerate(zip(histories, figures, strict=True))
    ]
    return '<section class="runs">' + _table(["Run", *figures[0]], rows, len(figures[0])) + "</section>"


def _charts(histories: Sequence[RunHistory], max_points: int) -> Iterator[Chart]:
    """Yield the charts that have a line. Of several runs the training loss is shown smoothed."""
    is_one = len(histories) == 1
    most = max(8, min(_MAX_CURVE_POINTS, max_points // ((len(_LINES) + 3) * len(histories))))

    def series(number: int, curve: Curve, label: str, style: Style = "line", color: str = "") -> Iterator[Series]:
        thin = curve.thinned(most)
        if len(thin.steps):
            tokens = histories[number].tokens_at(thin.steps)
            yield Series(label, style, color or str(number % _COLORS), thin.steps, tokens, thin.values)

    losses: list[Series] = []
    for number, history in enumerate(histories):
        loss, name = history.figure("train/loss"), history.name
        losses += series(number, loss, "training", "raw") if is_one else ()
        losses += series(number, _smoothed(history), "smoothed" if is_one else name)
        label, color = ("validation", "ink") if is_one else (f"{name} validation", "")
        losses += series(number, history.figure("eval/loss"), label, "dots", color)
    if losses:
        unit = "nats per token" if is_one else "nats per token; dots: validation"
        yield Chart("Loss", unit, losses, legend=STYLES if is_one else STYLES[1:2])
    for title, unit, name, from_zero, divisor in _LINES:
        lines: list[Series] = []
        for number, history in enumerate(histories):
            curve = history.figure(name).finite
            label = title.lower() if is_one else history.name
            lines += series(number, Curve(curve.steps, curve.values / divisor), label)
        if lines:
            yield Chart(title, unit, lines, from_zero)


def _smoothed(history: RunHistory) -> Curve:
    """Return the training loss over the last 40th of all tokens, at the begin over an eighth of those so far."""
    tokens = history.tokens_at(history.figure("train/loss").finite.steps)
    return history.smoothed(np.minimum(tokens[-1:] * SMOOTHED_SHARE / 2, tokens / 8))


def _chart_section(charts: Sequence[Chart]) -> str:
    if not charts:
        return _section("Curves", ['<p class="quiet">No step is recorded yet.</p>'])
    choices = "".join(
        f'<label><input type="radio" name="axis" id="by-{axis}"{checked}>{axis}</label>'
        for axis, checked in zip(AXES, (" checked", ""), strict=True)
    )
    chosen = f'<fieldset class="axis"><legend>over</legend>{choices}</fieldset>'
    return _section("Curves", [chosen, f'<div class="charts">{"".join(chart.html() for chart in charts)}</div>'])


def _samples(histories: Sequence[RunHistory], budget: float) -> Iterator[str]:
    """Yield what each run wrote, at steps that are spread evenly, the first and the last among them."""
    most = max(100, min(_MAX_CHARS, int(_MAX_TEXT * budget) // (_MAX_SAMPLES * len(histories))))
    for history in histories:
        steps = list(history.samples)
        if not steps:
            continue
        if len(histories) > 1:
            yield f"<h3>{_line(history.name)}</h3>"
        chosen = np.unique(np.linspace(0, len(steps) - 1, _MAX_SAMPLES).round().astype(int))
        if len(chosen) < len(steps):
            yield f'<p class="quiet">{len(chosen)} of {len(steps):,} evaluations; metrics.jsonl has all.</p>'
        curve = history.figure("eval/bits_per_byte").finite
        bits = dict(zip(curve.steps.tolist(), curve.values.tolist(), strict=True))
        for step in (steps[number] for number in chosen):
            texts = history.samples[step]
            pieces = (_cut(text, most // min(len(texts), 4)) for text in texts[:4])
            about = f'<br><span class="quiet">{bits[step]:.3f} bits per byte</span>' if step in bits else ""
            yield f'<div class="sample"><p>step {step:,}{about}</p><div>{"".join(pieces)}</div></div>'


def _cut(text: str, most: int) -> str:
    return f'<pre dir="auto">{escape(printable(text[:most]).strip())}{" …" if len(text) > most else ""}</pre>'


def _settings(histories: Sequence[RunHistory], budget: float) -> Iterator[str]:
    """Yield a table of the settings of any run that differ from the defaults."""
    changed = [differences(RunConfig(), history.config) for history in histories]
    keys = sorted({key for sides in changed for key in sides if not key.startswith(_PLACES)})
    most = max(20, int(_MAX_TEXT * budget) // max(1, len(keys) * (len(histories) + 1)))

    def show(sides: dict[str, Any] | None, side: str, otherwise: str) -> str:
        if sides is None:
            return otherwise
        text = json.dumps(sides[side], ensure_ascii=False) if side in sides else "–"  # noqa: RUF001
        return f"<code>{_line(text[:most])}{'…' if len(text) > most else ''}</code>"

    head = ["Setting", "Default", *(_line(history.name) for history in histories)]
    rows = [
        [
            f"<code>{_line(key)}</code>",
            show(next(sides[key] for sides in changed if key in sides), "first", ""),
            *(show(sides.get(key), "second", '<span class="quiet">default</span>') for sides in changed),
        ]
        for key in keys
    ]
    yield '<p class="quiet">Those that differ from the defaults; config.yaml of a run has all.</p>'
    yield _table(head, rows)


def _origins(histories: Sequence[RunHistory], budget: float) -> Iterator[str]:
    """Yield the text of each run with sizes and hashes, and how it was started."""
    for history in histories:
        record = history.record
        yield f"<h3>{_line(history.name)}</h3>" if len(histories) > 1 else ""
        ids = (f"run <code>{_line(record.run)}</code>", f"tokenizer <code>{_line(record.tokenizer[:16])}</code>")
        yield f'<p class="quiet">{", ".join(ids)}</p>'
        for name, text in record.text.items():
            yield f"<h3>{_line(name)}: {_line(', '.join(text.sources))}</h3>"
            yield f'<p class="quiet">dataset <code>{_line(text.dataset[:16])}</code></p>'
            counted = ("documents", "text_bytes", "tokens")
            rows = [[_line(s), *(_number(n.get(c), ",d") for c in counted)] for s, n in text.splits.items()]
            yield _table(("Split", "Documents", "Bytes", "Tokens"), rows, 3)
            yield from _files(text.files.values(), int(200 * budget) // len(histories))
        starts = record.starts[-max(1, int(20 * budget) // len(histories)) :]
        rows = [
            [
                *(_time(start), _line(start.get("step") or 0), _line(start.get("tool") or "")),
                f"<code>{_line(start.get('command') or '')}</code>",
            ]
            for start in starts
        ]
        yield _table(("Started", "From step", "Program", "Command"), rows) if rows else ""


def _files(sides: Iterable[Any], most: int) -> Iterator[str]:
    for side in sides:
        files = side.files[:most]
        rows = [[_line(name), f"<code>{_line(sha[:16])}</code>", f"{size:,}"] for name, size, sha in files]
        about = f"{side.num_files:,} files, {short(side.bytes)} bytes"
        about += f"; the first {len(files)}" if len(files) < side.num_files else ""
        table = _table(("File", "Hash (first 16 digits)", "Bytes"), rows, 1)
        yield f"<details><summary>{about}</summary>{table}</details>"
