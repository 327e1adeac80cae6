"""A stage makes one artifact, or finds that the one in place is what it would make.

What a stage would make is known before it runs: its kind, the ids of its inputs, and its settings. When the
manifest in place says the same, there is nothing to do. That is all the orchestrator knows.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from candlewick.artifacts import Manifest, publish, staging, write_durable
from candlewick.data.recipe import Recipe, alone, find


def make(folder: Path, recipe: Recipe, files: Callable[[], Mapping[str, bytes]]) -> tuple[Manifest, bool]:
    """Return the artifact of `recipe` at `folder` and whether it was there; `files` makes its content."""
    if (manifest := find(folder, recipe)) is not None:
        return manifest, True
    contents = files()
    with alone(folder), staging(folder) as aside:
        entries = tuple(write_durable(aside / name, content) for name, content in sorted(contents.items()))
        manifest = Manifest(recipe.kind, recipe.version, recipe.inputs, recipe.config, entries)
        publish(aside, folder, manifest)
    return manifest, False
