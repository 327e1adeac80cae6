"""A sample of a corpus: windows spread evenly over its text, without reading what lies between them.

    corpus |-----------------------------------------------|    of some bytes, by the sizes of its files
    sample    [--]         [--]         [--]         [--]       each begins after a line end, or at a row group

Of a compressed file, a .csv and a JSON array, which are read from their beginning only, that is what is taken.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import accumulate, groupby

from candlewick.data.text.columns import row_groups
from candlewick.data.text.corpus import Corpus
from candlewick.data.text.documents import (
    Document,
    TextDefects,
    content_columns,
    decide_utf8,
    read_documents,
    text_size,
)
from candlewick.data.text.file_ranges import FileRange, TextFile, character_start
from candlewick.data.text.reading import Reading

_WINDOW_BYTES = 1 << 20
_MAX_WINDOWS = 256
_BLOCK_BYTES = 1 << 18  # that are read at a time
_SEARCHED_BYTES = 1 << 16  # for a line end


def sample_documents(corpus: Corpus, max_bytes: int) -> Iterator[Document]:
    """Yield documents of about `max_bytes` bytes of text, and parts of long ones; all if there is no more."""
    sizes = [text_size(file, corpus.reading) for file in corpus.files]
    if sum(sizes) <= max_bytes:
        yield from corpus.documents()
        return
    reading = replace(corpus.reading, block_bytes=_BLOCK_BYTES)
    decide = cache(lambda number: decide_utf8(corpus.files[number], reading))
    used = 0  # files from the first on, of which no beginning is taken any more
    for first, start, size in _windows(corpus, sizes, max_bytes):
        taken, number = 0, first if start else max(first, used)
        while taken < size and number < len(sizes):  # a window may be longer than its file
            file_range = replace(_range_from(corpus.files[number], start, reading), is_utf8=decide(number))
            for document in read_documents(file_range, reading, TextDefects()):
                yield document
                taken += len(document.text.encode())
                if taken >= size:
                    break
            start, number = 0, number + 1
        used = number


def _windows(corpus: Corpus, sizes: list[int], max_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Yield (number of the file, first byte of text, bytes), about, in order; one of a file not addressed."""
    ends, window = list(accumulate(sizes)), max(_WINDOW_BYTES, max_bytes // _MAX_WINDOWS)
    count = max(1, max_bytes // window)
    targets = [(2 * i + 1) * ends[-1] // (2 * count) for i in range(count)]
    for number, group in groupby(targets, lambda target: bisect_right(ends, target)):
        file, starts = corpus.files[number], [target - (ends[number] - sizes[number]) for target in group]
        if file.compression is not None or file.kind in ("csv", "tsv", "array", "arrow"):
            yield number, 0, min(len(starts) * window, sizes[number])
        else:
            for start in starts:
                first = 0 if sizes[number] <= window else start
                yield number, first, min(window, max_bytes)


def _range_from(file: TextFile, start: int, reading: Reading) -> FileRange:
    """Return the range of a file from about a byte of its text on."""
    if start == 0:
        return FileRange(file)
    if file.kind == "parquet":
        row = 0
        for rows, size in row_groups(file, content_columns(file, reading)):
            if start < size:
                return FileRange(file, row + rows * start // size)
            row, start = row + rows, start - size
        return FileRange(file, row)
    low = start
    for block in FileRange(file, start).read_blocks(_SEARCHED_BYTES):
        if end := block.find(b"\n") + 1:
            return FileRange(file, low + end, starts_document=file.kind != "text")
        if file.kind == "text":
            return FileRange(file, low + character_start(block, len(block) // 2), starts_document=False)
        low += len(block)
    return FileRange(file, low)
