"""Write docs/config.md, config.schema.json, metrics.md and resume.md from the code that they describe.

`make docs` writes them; with `--check` (in `make check`) it only says which are out of date.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from candlewick.config.schema import (
    SectionSchema,
    describe_default,
    describe_type,
    is_section,
    json_schema,
    sections,
)
from candlewick.train.monitor.trackers import METRICS
from candlewick.train.resume import RULES

FOLDER = Path(__file__).parent
CONFIG_HEAD = """# Configuration

All settings of a run. `make docs` writes this page from `src/candlewick/config/`; edit the docstrings there.

A configuration is a YAML, TOML or JSON file with the settings that differ from the defaults below. `extends:`
names another file or profile to start from. A file takes precedence over the defaults and over the file that it
extends; `--override key=value` takes precedence over files. An unknown key is an error. `null` disables a feature;
in TOML, which has no null, write `"null"`.

```sh
candlewick config show --config demo --origins           # all settings, and the file and line that set each
candlewick config explain optimizer.momentum             # meaning, type, default and readers of a setting
candlewick config diff demo local                        # differences of two configurations or runs
candlewick config plot-schedule --config local           # learning rate over the run
```

An override of a list entry has an index, as in `data.mixture[0].weight=3`; below, `[]` stands for the index.
"derived" means that the default follows from other settings.

Editors can check and complete a configuration with the [schema](config.schema.json), which
`candlewick config schema` prints too. For the YAML language server, which VS Code's YAML extension and others use,
put this line at the top of the file:

```yaml
# yaml-language-server: $schema=docs/config.schema.json
```

The path of the schema is relative to the file; an address works too.
"""
RESUME_HEAD = """# Resuming a run

What a changed setting means for a run that goes on. `make docs` writes this page from
`src/candlewick/train/resume.py`.

```sh
candlewick train --resume runs/mine                                              # from its newest checkpoint
candlewick train --resume runs/mine --steps 20000       # train it longer
candlewick train --resume runs/mine/checkpoints/step_000004000                   # back to an earlier one
candlewick train --config mine.yaml --run-dir runs/mine --resume auto            # start it, or go on
candlewick orchestrate --config mine.yaml --run-dir runs/mine --steps 20000      # it goes on by itself
```

A change is a line in the log; *warned of* is a warning. What *must match* is an error that names all such settings
with both values. *By content* means that names and paths are free: what was made of the text is compared by its
ids. After a change that *restarts the best*, the lowest validation loss is looked for anew. An end before the
updates that a run has made is an error. If the learning rate jumps, both rates are told. Checkpoints after the one
that a run goes back to are kept, renamed to `step_*.rejected-*`.

| setting | when it changes | because |
|---|---|---|"""
METRICS_HEAD = """# Metrics

The figures that a run records in `metrics.jsonl` and in TensorBoard. `make docs` writes this page from
`src/candlewick/train/monitor/trackers.py`. [Formats](formats.md#run-folder) describes the rows of the file.

| name | meaning |
|---|---|"""


def main() -> int:
    """Write or check the pages; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a page is out of date")
    check = parser.parse_args().check
    stale: list[str] = []
    pages = {
        "config.md": config_page(),
        "config.schema.json": schema_page(),
        "metrics.md": metrics_page(),
        "resume.md": resume_page(),
    }
    for name, text in pages.items():
        path = FOLDER / name
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(f"docs/{name}")
    if stale:
        sys.stderr.write(f"out of date: {', '.join(stale)} (fix: make docs)\n")
    return 1 if stale else 0


def resume_page() -> str:
    """Return the whole page about resuming: settings with the same rule as their section are one row."""
    rows = [RESUME_HEAD]
    for key, rule in RULES.items():
        others = " and its other settings" if any(name.startswith(f"{key}.") for name in RULES) else ""
        rows.append(f"| `{key}`{others} | {rule.effect} | {rule.reason} |")
    return "\n".join(rows) + "\n"


def config_page() -> str:
    """Return the whole page about the config tree."""
    return "\n".join([CONFIG_HEAD.rstrip(), *(line for group in sections() for line in section(group))]) + "\n"


def section(group: SectionSchema) -> Iterator[str]:
    """Yield a section with the table of its settings."""
    if group.name:
        yield f"\n## `{group.name}`" + (f" with `{group.kind}`" if group.kind else "")
        yield f"\n{group.meaning}"
    rows = {key: field for key, field in group.settings.items() if not is_section(field)}
    if rows:
        yield "\n| key | type | default | meaning |\n|---|---|---|---|"
    for key, field in rows.items():
        meaning = " ".join(field.get("description", "").split())
        yield f"| `{key}` | {describe_type(field)} | {describe_default(field)} | {meaning} |"


def schema_page() -> str:
    """Return the JSON schema of a configuration."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def metrics_page() -> str:
    """Return the whole page about metrics."""
    return "\n".join([METRICS_HEAD, *(f"| `{name}` | {meaning} |" for name, meaning in METRICS.items())]) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
