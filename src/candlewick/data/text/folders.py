"""Find the text in a folder: each file in it that is UTF-8, at any depth, in the order of the names.

Hidden files, those that a .gitignore names, and those that are no text are left out, and so are folders that
Candlewick makes of something else than text, unfinished ones, and held-out shards. A folder of text shards is read
by lines. Linked folders are followed, each folder once. What was taken and left out is told in one line.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from pathspec import GitIgnoreSpec

from candlewick.artifacts.manifest import MANIFEST, Manifest, read_bounded, read_manifest
from candlewick.data.text.file_ranges import TextFile
from candlewick.data.text.formats import LeftOut, NotText, describe_file, find_format
from candlewick.data.text.reading import Reading
from candlewick.errors import ArtifactError, DataError

_IGNORE = ".gitignore"
logger = logging.getLogger(__name__)


def find_in_folder(
    folder: Path, reading: Reading, include: Sequence[str], exclude: Sequence[str]
) -> list[TextFile]:
    """Return the text of a folder. Raises DataError if there is none, and for an artifact of another kind."""
    if is_text_artifact(folder):
        reading = replace(reading, documents="line")  # of shards, whatever the settings say of other text
    elif (manifest := _artifact(folder)) is not None:
        raise DataError(f"{folder} holds {manifest.kind}, not text", "give a folder of text")
    taken, left_out = (GitIgnoreSpec.from_lines(lines) if lines else None for lines in (include, exclude))
    walk = _Walk(taken, left_out)
    files = list(walk.files(folder, "", reading, []))
    summary = walk.describe(files)
    if not files:
        raise DataError(f"{folder} has no text ({summary})", walk.left_out.fix("give a folder with text in it"))
    logger.info("%s: %s", folder, summary)
    walk.left_out.warn(str(folder))
    return files


def is_text_artifact(folder: Path) -> bool:
    """Return whether a folder with a manifest holds shards of text: an artifact, or a plain list of `shards`."""
    if (manifest := _artifact(folder)) is not None:
        return manifest.kind == "text"
    try:
        content: object = json.loads(read_bounded(folder / MANIFEST))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"shards", "total_lines"} <= cast("dict[str, object]", content).keys()


def _artifact(folder: Path) -> Manifest | None:
    """Return the manifest of an artifact, None for another folder: other programs have a manifest.json too."""
    try:
        return read_manifest(folder)
    except ArtifactError:
        return None


_Ignore = tuple[int, GitIgnoreSpec]  # where the names begin that a .gitignore matches, and its patterns


@dataclass
class _Walk:
    include: GitIgnoreSpec | None
    exclude: GitIgnoreSpec | None
    left_out: LeftOut = field(default_factory=LeftOut)
    seen: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])
    files_seen: set[Path] = field(default_factory=set[Path])

    def files(self, folder: Path, prefix: str, reading: Reading, ignores: Sequence[_Ignore]) -> Iterator[TextFile]:
        """Yield the files of a folder, unless it was visited; `prefix` comes before their names."""
        status = folder.stat()
        if (status.st_dev, status.st_ino) in self.seen:
            return
        self.seen.add((status.st_dev, status.st_ino))
        if (folder / _IGNORE).is_file():
            lines = read_bounded(folder / _IGNORE).decode(errors="replace").splitlines()
            ignores = [*ignores, (len(prefix), GitIgnoreSpec.from_lines(lines))]
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda e: e.name)
        real, is_shards = folder.resolve(), is_text_artifact(folder)
        for entry in entries:
            path, name, is_dir = folder / entry.name, prefix + entry.name, entry.is_dir()
            reason = self._reason(f"{name}/" if is_dir else name, ignores)
            if reason is not None:
                self.left_out.counts[reason] += 1
            elif is_dir:
                yield from self._folder(path, f"{name}/", reading, ignores)
            elif entry.is_file() and not (entry.name == MANIFEST and is_shards):
                yield from self._file(
                    path, name, path.resolve() if entry.is_symlink() else real / entry.name, reading
                )

    def _folder(self, path: Path, prefix: str, reading: Reading, ignores: Sequence[_Ignore]) -> Iterator[TextFile]:
        if is_text_artifact(path):
            manifest = _artifact(path)
            if manifest is not None and manifest.config.get("side") == "val":
                self.left_out.counts["folders of held-out text"] += 1
                return
            reading = replace(reading, documents="line")
        elif (manifest := _artifact(path)) is not None:
            self.left_out.counts[f"folders of {manifest.kind}"] += 1
            return
        yield from self.files(path, prefix, reading, ignores)

    def _reason(self, name: str, ignores: Sequence[_Ignore]) -> str | None:
        """Return why a file or a folder, whose name ends with a slash, is left out by its name."""
        is_dir = name.endswith("/")
        if name.rstrip("/").endswith(".partial"):
            return "unfinished"
        checks = [spec.check_file(name[start:]).include for start, spec in ignores]
        if next((is_ignored for is_ignored in reversed(checks) if is_ignored is not None), False):
            return f"in {_IGNORE}"
        if self.exclude is not None and self.exclude.match_file(name):
            return "excluded"
        return None if is_dir or self.include is None or self.include.match_file(name) else "excluded"

    def _file(self, path: Path, name: str, real: Path, reading: Reading) -> Iterator[TextFile]:
        try:
            if not os.access(real, os.R_OK):
                raise NotText("not readable", "")
            if reading.format == "tokens" and not name.endswith(".bin"):
                raise NotText("no .bin", "")
            if real in self.files_seen:
                raise NotText("links to files that are taken", "")
            yield find_format(describe_file(path, name, reading, real), reading, is_named=False)
            self.files_seen.add(real)
        except NotText as error:
            self.left_out.add(path, error)

    def describe(self, files: Sequence[TextFile]) -> str:
        """Return in words what was taken, by extension, and what was left out."""
        kinds = Counter(Path(file.name).suffix.lower() or "without extension" for file in files)
        size = sum(file.bytes for file in files)
        taken = f"{len(files):,} files, {size / 1e6:,.1f} MB: " + _list(kinds)
        counts = self.left_out.counts
        return taken + (f"; left out: {_list(counts, number_first=True)}" if counts else "")


def _list(counts: Counter[str], *, number_first: bool = False) -> str:
    items = counts.most_common(8)
    words = [f"{count:,} {name}" if number_first else f"{name} {count:,}" for name, count in items]
    return ", ".join(words) + (", ..." if len(counts) > len(items) else "")
