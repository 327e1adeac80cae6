"""The source stories://COUNT@SEED: stories 0 to COUNT - 1 of a seed, kept in the cache, one in each line."""

import re
from pathlib import Path

from candlewick.artifacts.build import Recipe, build_once
from candlewick.artifacts.manifest import Manifest, json_sha256, provenance, publish, staging, write_durable
from candlewick.data.text.file_ranges import TextFile
from candlewick.data.text.stories.generate import write_story
from candlewick.data.text.stories.grammar import load_grammar
from candlewick.errors import ConfigError, DataError

STORIES = "stories://"
_DEFAULT_COUNT = 20_000
_MAX_COUNT = 10**9
_URI = re.compile(rf"{STORIES}([0-9]*)(?:@([0-9]+))?")


def find_stories(uri: str, cache: Path | None) -> TextFile:
    """Return the file of the stories that a URI names, which is written if the cache does not have it.

    Raises DataError for a URI that names none, ConfigError without a cache.
    """
    match = _URI.fullmatch(uri)
    count, seed = (int(match[1] or _DEFAULT_COUNT), int(match[2] or 0)) if match else (0, 0)
    if not 1 <= count <= _MAX_COUNT:
        raise DataError(
            f"{uri} names no stories", f"write {STORIES}, or {STORIES}COUNT@SEED with 1 to {_MAX_COUNT:,} stories"
        )
    if cache is None:
        raise ConfigError(f"there is no folder to keep {uri} in", "set data.cache_dir")
    recipe = Recipe("stories", {"grammar": load_grammar().sha256}, {"count": count, "seed": seed})
    output = cache / f"stories-{json_sha256([recipe.inputs, recipe.config])[:16]}"

    def build(_: Path) -> Manifest:
        with staging(output) as folder:
            lines = (f"{write_story(seed, number)}\n".encode() for number in range(count))
            entry = write_durable(folder / "stories.txt", lines)
            manifest = Manifest(
                recipe.kind, recipe.version, recipe.inputs, recipe.config, (entry,), {}, provenance()
            )
            return publish(folder, output, manifest)

    build_once(output, recipe, build)
    path = (output / "stories.txt").resolve()
    status = path.stat()
    return TextFile(f"{STORIES}{count}@{seed}", "lines", None, status.st_size, path, status.st_mtime_ns)
