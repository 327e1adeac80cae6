"""The text column of .parquet files, streamed: only that column, a few MiB at a time.

row group 0 |batch|batch|batch|  row group 1 |batch|batch|...      rows are numbered through the file
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from candlewick.data.text.file_ranges import BLOCK_BYTES, FileRange, SourceFile
from candlewick.errors import DataError


def row_groups(file: SourceFile, text_field: str) -> list[tuple[int, int]]:
    """Return (rows, bytes of text, about) of each row group. Raises DataError without the text column."""
    with _open_parquet(file, text_field) as parquet:
        return _row_groups(parquet, text_field)


def read_column(file_range: FileRange, text_field: str) -> Iterator[tuple[int, Any]]:
    """Yield (number of the first row, Arrow array of text or bytes). Raises DataError if the file is damaged."""
    first = 0
    try:
        with _open_parquet(file_range.file, text_field) as parquet:
            stop = parquet.metadata.num_rows if file_range.stop is None else file_range.stop
            for group, (rows, size) in enumerate(_row_groups(parquet, text_field)):
                if first < stop and first + rows > file_range.start:
                    batch_rows = max(1, rows * BLOCK_BYTES // max(size, 1))
                    row = first
                    for batch in parquet.iter_batches(batch_rows, [group], [text_field], use_threads=False):
                        low, high = max(file_range.start - row, 0), min(stop - row, len(batch))
                        if low < high:
                            yield row + low, batch.column(0).slice(low, high - low)
                        row += len(batch)
                    if row != first + rows:
                        raise OSError(f"row group {group} has {row - first} rows, its metadata say {rows}")
                first += rows
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file_range.file.path} cannot be read: {error}", "it is damaged: get it again") from None


def _open_parquet(file: SourceFile, text_field: str) -> pq.ParquetFile:
    file.require_unchanged()
    try:
        # buffered reads: otherwise the whole column of a row group is read at once
        parquet = pq.ParquetFile(str(file.path), buffer_size=1 << 20)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file.path} is not a readable .parquet file: {error}", "get it again") from None
    schema = parquet.schema_arrow
    fix = "set data.text_field to the column with the text"
    if (index := schema.get_field_index(text_field)) < 0:
        raise DataError(f"{file.path} has no column {text_field!r}, only {', '.join(schema.names)[:200]}", fix)
    kind = schema.field(index).type
    if kind not in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        raise DataError(f"{file.path}: column {text_field!r} holds {kind}, not text", fix)
    return parquet


def _row_groups(parquet: pq.ParquetFile, text_field: str) -> list[tuple[int, int]]:
    leaf = [parquet.schema.column(i).path for i in range(len(parquet.schema))].index(text_field)
    groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
    return [(group.num_rows, group.column(leaf).total_uncompressed_size) for group in groups]
