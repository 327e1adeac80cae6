"""A stage makes one artifact, or finds that the one in place is what it would make.

What a stage would make is known before it runs: its kind, the ids of its inputs, and its settings. When the
manifest in place says the same, there is nothing to do. That is all the orchestrator knows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from candlewick.artifacts import MANIFEST, Manifest, publish, read_manifest, staging, verify, write_durable
from candlewick.errors import ArtifactError


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a stage is going to make."""

    kind: str
    inputs: Mapping[str, str]
    config: Mapping[str, Any]


def find(folder: Path, recipe: Recipe) -> Manifest | None:
    """Return the manifest in `folder` if it is whole and made by this recipe."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        manifest = read_manifest(folder, recipe.kind)
        verify(folder, manifest)
    except ArtifactError:
        return None
    same = dict(manifest.inputs) == dict(recipe.inputs) and dict(manifest.config) == dict(recipe.config)
    return manifest if same else None


def make(folder: Path, recipe: Recipe, files: Callable[[], Mapping[str, bytes]]) -> tuple[Manifest, bool]:
    """Return the artifact of `recipe` at `folder` and whether it was there; `files` makes its content."""
    if (manifest := find(folder, recipe)) is not None:
        return manifest, True
    contents = files()
    with staging(folder) as aside:
        entries = tuple(write_durable(aside / name, content) for name, content in sorted(contents.items()))
        manifest = Manifest(recipe.kind, 1, recipe.inputs, recipe.config, entries)
        publish(aside, folder, manifest)
    return manifest, False
