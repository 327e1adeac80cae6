"""A stage makes one artifact, or finds that the one in place is what it would make.

What a stage would make is known before it runs: its kind, the ids of its inputs, and its settings. When the
manifest in place says the same, there is nothing to do. That is all the orchestrator knows.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from candlewick.artifacts.build import Recipe, once
from candlewick.artifacts.manifest import Manifest, publish, staging, write_durable


def make(path: Path, recipe: Recipe, compute: Callable[[], object]) -> tuple[Any, bool]:
    """Return the content of an artifact of one JSON file, `path`, and whether it was there; else `compute` it."""

    def write(_: Path) -> Manifest:
        content = json.dumps(compute(), indent=1, ensure_ascii=False).encode()
        with staging(path.parent) as aside:
            files = (write_durable(aside / path.name, content),)
            manifest = Manifest(recipe.kind, recipe.version, recipe.inputs, recipe.config, files)
            return publish(aside, path.parent, manifest)

    _, reused = once(path.parent, recipe, write)
    return json.loads(path.read_bytes()), reused
