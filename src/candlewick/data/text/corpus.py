"""A corpus is a list of text files in a fixed order, with a fingerprint, and how they are read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from candlewick.artifacts.manifest import json_sha256
from candlewick.data.text.documents import Document, TextDefects, read_documents
from candlewick.data.text.file_ranges import FileRange, TextFile
from candlewick.data.text.reading import Reading
from candlewick.data.text.stamps import hash_files

Positions = NDArray[np.int64]


@dataclass
class Corpus:
    """Text files in a fixed order, and how they are read."""

    files: tuple[TextFile, ...]
    reading: Reading
    # positions of the documents that are left out, in order (`data.tokens.duplicates`)
    duplicates: Mapping[TextFile, Positions] = field(default_factory=dict[TextFile, Positions])

    @cached_property
    def is_local(self) -> bool:
        """Whether no file has to be downloaded."""
        return all(file.hub is None for file in self.files)

    @property
    def rows(self) -> list[list[str | int]]:
        """Name, size and hash of each file, of the Hub without the commit; reads every local byte once."""
        missing = [file for file in self.files if file.hub is None and file not in _known_hashes]
        _known_hashes.update(zip(missing, hash_files(missing), strict=True))
        names = [f.name if f.hub is None else f"{f.hub[0].name}/{f.hub[1].path}" for f in self.files]
        return [[name, file.bytes, content_hash(file)] for name, file in zip(names, self.files, strict=True)]

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 over names, sizes and hashes."""
        return json_sha256(self.rows)

    def documents(self) -> Iterator[Document]:
        """Yield the documents of local files in order; see `read_documents`."""
        for file in self.files:
            yield from read_documents(FileRange(file), self.reading, TextDefects())


_known_hashes: dict[TextFile, str] = {}  # computed once for all stages


def content_hash(file: TextFile) -> str:
    """Return the SHA-256 of a file; of a small file of the Hub git's SHA-1."""
    if file.hub is not None:
        return file.hub[1].sha256 or file.hub[1].blob_id
    if file not in _known_hashes:
        _known_hashes[file] = hash_files([file])[0]
    return _known_hashes[file]
