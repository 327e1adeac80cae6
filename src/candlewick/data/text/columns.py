"""Columns of .parquet and .arrow files, streamed: only those columns, a few MiB at a time.

row group 0 |batch|batch|batch|  row group 1 |batch|batch|...      rows are numbered through the file
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from candlewick.data.text.file_ranges import BLOCK_BYTES, FileRange, TextFile
from candlewick.errors import DataError

_MAX_BATCH_ROWS = 1024
_FEW_ROWS = 32
_MAX_GROUP_VALUES_BYTES = 256 << 20  # in a batch, if each of its rows had the largest value
_MAX_BATCH_BYTES = 32 << 20  # of a batch with larger rows, one at a time is passed on
_STRUCT_BYTES = 64  # of one in Python, at the least
_MIN_ROW_BYTES = 8  # as which a row counts, an empty one too, against `max_text_bytes`


def column_names(file: TextFile) -> list[str]:
    """Return the names of the columns of a file. Raises DataError if it cannot be read."""
    with _reading(file):
        if file.kind == "arrow":
            return _open_arrow(file).schema.names
        return pq.ParquetFile(str(file.path)).schema_arrow.names


def require_columns(file: TextFile, columns: Sequence[str]) -> None:
    """Raise DataError if a file cannot be read, lacks a column, or the only one asked for holds no text."""
    with _reading(file):
        if file.kind == "arrow":
            _require_columns(file, _open_arrow(file).schema, columns)
        else:
            _open_parquet(file, columns).close()


def row_groups(file: TextFile, columns: Sequence[str]) -> list[tuple[int, int]]:
    """Return (rows, bytes) of each row group; an .arrow file is one. Raises DataError without the columns."""
    with _reading(file):
        if file.kind == "arrow":
            return [(sum(batch.num_rows for batch in _iter_arrow(file, columns)), file.bytes)]
        with _open_parquet(file, columns) as parquet:
            return [(rows, size) for rows, size, _ in _row_groups(file, parquet, columns)]


def read_column(file_range: FileRange, column: str) -> Iterator[tuple[int, Any]]:
    """Yield (number of the first row, Arrow array) of a column; `a.b` is a field of a struct. Raises DataError."""
    for first, batch in read_columns(file_range, [column]):
        values = batch.column(0)
        for name in column.split(".")[1:] if column not in batch.schema.names else ():
            values = values.field(name)
        yield first, values


def read_columns(file_range: FileRange, columns: Sequence[str]) -> Iterator[tuple[int, Any]]:
    """Yield (number of the first row, record batch) of some columns. Raises DataError if the file is damaged."""
    stop = file_range.stop
    with _reading(file_range.file):
        read = _iter_arrow if file_range.file.kind == "arrow" else _iter_parquet
        row = total = 0
        for batch in read(file_range.file, columns, file_range):
            num_rows = batch if isinstance(batch, int) else batch.num_rows  # rows that are passed over
            low = max(file_range.start - row, 0)
            high = num_rows if stop is None else min(stop - row, num_rows)
            if low < high and not isinstance(batch, int):
                part = batch.slice(low, high - low)
                for column in part.columns:
                    _validate(column, is_decoded=file_range.file.kind == "parquet")
                num_bytes = sum(_value_bytes(column) for column in part.columns)
                total += num_bytes
                _require_expansion(file_range.file, total)
                step = 1 if num_bytes > _MAX_BATCH_BYTES else len(part)
                for first in range(0, len(part), step):
                    yield row + low + first, part.slice(first, step)
            row += num_rows
            if stop is not None and row >= stop:
                return


def _iter_parquet(file: TextFile, columns: Sequence[str], file_range: FileRange) -> Iterator[Any]:
    with _open_parquet(file, columns) as plain:
        first, groups = 0, _row_groups(file, plain, columns)
        dictionaries = {path for _, _, paths in groups for path in paths}
        with _open_parquet(file, columns, dictionaries) as with_dictionaries:
            for group, (rows, size, paths) in enumerate(groups):
                if first + rows <= file_range.start:
                    yield rows
                else:
                    batch_rows, read = min(max(1, rows * BLOCK_BYTES // max(size, 1)), _MAX_BATCH_ROWS), 0
                    # a dictionary is no larger than its row group: of a small one, some rows are no danger
                    few = _MAX_GROUP_VALUES_BYTES // max(size, 1)
                    is_small = few >= min(_FEW_ROWS, batch_rows)
                    batch_rows = min(batch_rows, few) if paths and is_small else batch_rows
                    is_large = (
                        paths and not is_small and _has_large_values(with_dictionaries, group, columns, batch_rows)
                    )
                    parquet = with_dictionaries if is_large else plain
                    for batch in parquet.iter_batches(batch_rows, [group], list(columns), use_threads=False):
                        read += batch.num_rows
                        yield batch
                    if read != rows:
                        raise OSError(f"row group {group} has {read} rows, its metadata say {rows}")
                first += rows


def _has_large_values(parquet: pq.ParquetFile, group: int, columns: Sequence[str], batch_rows: int) -> bool:
    """Return whether the values of a dictionary are so large that copies of them would fill the memory."""
    batch = next(parquet.iter_batches(1, [group], list(columns), use_threads=False), None)
    largest = 0 if batch is None else max(_largest_value(column) for column in batch.columns)
    return largest * batch_rows > _MAX_BATCH_BYTES


def _largest_value(array: Any) -> int:
    """Return the size of the largest value in the dictionaries of an array."""
    if pa.types.is_dictionary(array.type):
        if not _is_text(array.type):
            return 0
        return pc.call_function("max", [pc.call_function("binary_length", [array.dictionary])]).as_py() or 0
    if not pa.types.is_nested(array.type) or not hasattr(array, "flatten"):
        return 0
    children = array.flatten()
    return max(map(_largest_value, children if isinstance(children, list) else [children]), default=0)


def _iter_arrow(file: TextFile, columns: Sequence[str], _: FileRange | None = None) -> Iterator[Any]:
    reader = _open_arrow(file)
    _require_columns(file, reader.schema, columns)
    is_stream = isinstance(reader, pa.RecordBatchStreamReader)
    batches = reader if is_stream else (reader.get_batch(i) for i in range(reader.num_record_batches))
    rows = 0
    for batch in batches:
        chosen = batch.select(
            [column if column in batch.schema.names else column.split(".")[0] for column in columns]
        )
        rows += batch.num_rows
        _require_expansion(file, rows * _MIN_ROW_BYTES)
        for low in range(0, chosen.num_rows, _MAX_BATCH_ROWS):
            yield chosen.slice(low, _MAX_BATCH_ROWS)


@contextmanager
def _reading(file: TextFile) -> Generator[None]:
    file.require_unchanged()
    try:
        yield
    except (OSError, pa.ArrowException, ValueError, MemoryError) as error:
        problem = " ".join(str(error).split())[:200]
        raise DataError(f"{file.path} cannot be read: {problem}", "it is damaged: get it again") from None


def _open_parquet(file: TextFile, columns: Sequence[str], dictionaries: Iterable[str] = ()) -> pq.ParquetFile:
    # buffered reads: otherwise the whole column of a row group is read at once
    parquet = pq.ParquetFile(str(file.path), buffer_size=1 << 20, read_dictionary=list(dictionaries))
    _require_columns(file, parquet.schema_arrow, columns)
    return parquet


def _open_arrow(file: TextFile) -> Any:
    """Open an Arrow file or stream; `datasets` writes streams."""
    try:
        return pa.ipc.open_file(pa.memory_map(str(file.path)))
    except pa.ArrowInvalid:
        return pa.ipc.open_stream(pa.memory_map(str(file.path)))


def _require_columns(file: TextFile, schema: Any, columns: Sequence[str]) -> None:
    """Raise DataError if the file lacks a column, or the only one asked for holds no text."""
    for column in columns:
        names: Sequence[str] = [column] if column in schema.names else column.split(".")
        kind: Any = schema
        for name in names:
            index = kind.get_field_index(name) if isinstance(kind, pa.Schema | pa.StructType) else -1
            if index < 0:
                raise DataError(
                    f"{file.path} has no column {column!r}, only {', '.join(schema.names)[:200]}",
                    "name the column with the text: --text-column NAME, or data.text_field",
                )
            kind = kind.field(index).type
        if len(columns) == 1 and not _is_text(kind) and not _is_list(kind):
            raise DataError(
                f"{file.path}: column {column!r} holds {kind}, not text",
                "name the column with the text: --text-column NAME, or data.text_field",
            )


def _is_text(kind: Any) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    tests = (types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary)
    return any(test(kind) for test in (*tests, types.is_binary_view, types.is_null))


def _is_list(kind: Any) -> bool:
    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list))


def _row_groups(
    file: TextFile, parquet: pq.ParquetFile, columns: Sequence[str]
) -> list[tuple[int, int, list[str]]]:
    """Return (rows, bytes, columns with a dictionary) of each row group. Raises DataError for a bomb."""
    paths = [parquet.schema.column(i).path for i in range(len(parquet.schema))]
    leaves = [i for i, path in enumerate(paths) if any(f"{path}.".startswith(f"{name}.") for name in columns)]
    groups: list[tuple[int, int, list[str]]] = []
    for number in range(parquet.num_row_groups):
        group = parquet.metadata.row_group(number)
        chunks = {paths[leaf]: group.column(leaf) for leaf in leaves}
        size = sum(chunk.total_uncompressed_size for chunk in chunks.values())
        groups.append(
            (group.num_rows, size, [path for path, chunk in chunks.items() if chunk.has_dictionary_page])
        )
    _require_expansion(file, sum(max(size, rows * _MIN_ROW_BYTES) for rows, size, _ in groups))
    return groups


def _require_expansion(file: TextFile, num_bytes: int) -> None:
    """Raise DataError if a file grows more than the settings allow."""
    if num_bytes > file.max_text_bytes:
        raise DataError(
            f"{file.path} has {file.bytes} bytes, and more than {file.max_text_bytes} when it is decompressed",
            "raise data.max_expansion if that is right",
        )


def _validate(array: Any, *, is_decoded: bool) -> None:
    """Raise ArrowInvalid for a reference to elsewhere, which would end the process."""
    kind = array.type
    is_string = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if is_decoded and (is_string or pa.types.is_binary(kind)):
        return  # its references are those of the decoder
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        if not is_string or "UTF8" not in str(error):
            raise


def _value_bytes(array: Any) -> int:
    """Return how many bytes the values of an array have, each copy of a value counted."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        if not _is_text(kind):
            return _value_bytes(array.dictionary) * len(array)
        lengths: Any = pc.call_function("binary_length", [array.dictionary])
        return pc.call_function("sum", [lengths.take(array.indices)]).as_py() or 0
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        views = np.frombuffer(array.buffers()[1], np.int32).reshape(-1, 4)  # the length comes first
        return int(views[array.offset : array.offset + len(array), 0].sum(dtype=np.int64))
    if pa.types.is_struct(kind):
        return len(array) * _STRUCT_BYTES + sum(_value_bytes(child) for child in array.flatten())
    if pa.types.is_nested(kind) and hasattr(array, "flatten"):
        return _value_bytes(array.flatten())
    return array.nbytes
