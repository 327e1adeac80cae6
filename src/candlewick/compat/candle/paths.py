"""Paths in the files of transformer_candle: where they start, and what lies there under another name.

RUN/training.toml           of its orchestrator: paths start where that was called, perhaps at the repository
train/e/train_0000.txt      a shard that Candlewick's sharder wrote as train_0000.jsonl
processed/mixed_corpus.txt  what `data preprocess` wrote as the folder mixed_corpus
RUN/checkpoints             the run folder is RUN
"""

from collections.abc import Sequence
from pathlib import Path

from candlewick.artifacts.manifest import MANIFEST
from candlewick.config import RunConfig
from candlewick.config.keys import look_up
from candlewick.config.tree import Tree

_SUFFIXES = (".jsonl", ".jsonl.gz", ".txt.gz")


def find_base(tree: Tree, file: Path) -> Path:
    """Return the folder at which the relative paths of a configuration start: its own, or one above it.

    The orchestrator wrote RUN/training.toml with paths as they were given. RUN/checkpoints is one of them, and
    says how far RUN lies below the folder where it was called.
    """
    directory = look_up(tree, ("runtime", "checkpoint", "directory"))
    is_relative = isinstance(directory, str) and not Path(directory).is_absolute()
    parts = Path(directory).parent.parts if is_relative else ()
    is_below = parts and file.parent.parts[-len(parts) :] == parts
    return file.parent.parents[len(parts) - 1] if file.stem == "training" and is_below else file.parent


def find_shards(uris: Sequence[object]) -> dict[str, str]:
    """Return text under another name for each `.txt` that is not there: the same shard, or a folder of shards."""
    found: dict[str, str] = {}
    for path in (Path(uri) for uri in uris if isinstance(uri, str) and "://" not in uri and uri.endswith(".txt")):
        folder = path.with_suffix("")
        places = [*(path.with_suffix(suffix) for suffix in _SUFFIXES), folder / MANIFEST]
        other = next(filter(Path.is_file, places), None)
        if other is not None and not path.exists():
            found[str(path)] = str(folder if other.name == MANIFEST else other)
    return found


def find_run(config: RunConfig) -> Path | None:
    """Return the run folder of a configuration, in which its `checkpoints` lie; None if they have another name."""
    directory = config.runtime.checkpoint.directory
    return directory.parent if directory is not None and directory.name == "checkpoints" else None
