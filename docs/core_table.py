"""Write docs/core.md, the table of modes and how far each is from its reference, from what a test run recorded.

    python -m pytest --core-rows rows.jsonl        records; each row was asserted there
    python docs/core_table.py rows.jsonl           writes the page
    python docs/core_table.py rows.jsonl --check   says which rows of the page the run did not produce

Errors differ in the last bits between processors, so `--check` compares modes, references and limits, not errors.
"""

import argparse
import json
import sys
from pathlib import Path

PAGE = Path(__file__).parent / "core.md"
HEAD = """# The core: every mode, and how far it is from its reference

Written by `make core` from a test run, in which each of these errors was asserted to be within its limit. Where
the reference does not say otherwise, an error is the largest difference relative to the largest value of it.
A mode without a row fails the tests.

| mode | reference | largest error | limit |
|---|---|---|---|
"""

Row = tuple[str, str, float, float]


def read(path: Path) -> list[Row]:
    """Return the rows of a test run, of each mode and reference the one with the largest error."""
    worst: dict[tuple[str, str], Row] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        mode, reference, error, limit = json.loads(line)
        known = worst.get((mode, reference))
        if known is None or error > known[2]:
            worst[mode, reference] = (mode, reference, error, limit)
    return [worst[key] for key in sorted(worst)]


def page(rows: list[Row]) -> str:
    """Return the page."""
    return HEAD + "".join(
        f"| `{mode}` | {what} | {_number(error)} | {_number(limit)} |\n" for mode, what, error, limit in rows
    )


def shown(text: str) -> set[tuple[str, str, str]]:
    """Return (mode, reference, limit) of each row of a page."""
    cells = (line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `"))
    return {(mode.strip("`"), what, limit) for mode, what, _, limit in cells}


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.2g}"


def main() -> int:
    """Write or check the page; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="what `pytest --core-rows` wrote")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is out of date")
    args = parser.parse_args()
    text = page(read(args.rows))
    if not args.check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    differ = shown(PAGE.read_text(encoding="utf-8")) ^ shown(text)
    if differ:
        sys.stderr.write(f"docs/core.md is out of date: {sorted(differ)[0]} (fix: make core)\n")
    return 1 if differ else 0


if __name__ == "__main__":
    raise SystemExit(main())
