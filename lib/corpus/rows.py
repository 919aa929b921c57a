"""The rows in a corpus file: the wanted ones, the left-out ones and the bad ones, separated."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lib.corpus.conversations import RowError, check_unicode, pair
from lib.corpus.files import BUFFER, COLUMNS, DAMAGE, CorpusError, damaged, lines, opened, row_groups_with
from lib.corpus.formats import CENDOL, LINES, PARQUET, VALUES, Format, column_names, json_values, table_rows

SCHEMA = pa.schema([("row", pa.int64()), ("source", pa.string()), *((name, pa.string()) for name in COLUMNS)])
#: Of a corpus whose rows may be conversations: all messages before the completion as JSON, or null where `input` is the
#: only one.
TURNS = pa.field("turns", pa.string())
REPETITIVE = ["source", "dataset_name", "subset_name", "template_name", "dataset_key"]
#: The subset of rows that name none.
UNDIVIDED = "undivided"
#: How many subsets there may be: each is a line in tables and figures.
MOST_SUBSETS = 200
_LONGEST_SUBSET = 60
_BATCH_ROWS = 8_192
_BATCH_BYTES = 32 << 20
_CLIP = 200
#: Encodings of pages that a reader can turn into a dictionary while it reads.
_ENCODINGS = {"PLAIN", "RLE", "BIT_PACKED", "PLAIN_DICTIONARY", "RLE_DICTIONARY"}


class _BadRow(NamedTuple):
    row: int
    reason: str
    value: Any
    subset: str | None


class _Part(NamedTuple):
    """A stretch of one file: the wanted rows, what was left out or set aside, and the bytes of the file read so far."""

    kept: pa.RecordBatch
    left_out: Counter[str]
    bad: list[_BadRow]
    position: int


def parts(name: str, path: Path, form: Format, wanted: frozenset[str] | None) -> Iterator[_Part]:
    """The rows of a file in Cendol's columns, and `row`, their number.

    Args:
        form: what `lib.corpus.formats.recognise` says of the file.
        wanted: the subsets whose rows are kept; None for all.
    """
    if form.container == PARQUET and form.shape == CENDOL:
        return _parquet_parts(name, path, form, wanted)
    return _row_parts(name, path, form, wanted)


def _parquet_parts(name: str, path: Path, form: Format, wanted: frozenset[str] | None) -> Iterator[_Part]:
    """The rows of a parquet file in Cendol's columns. Where a row group has none of the wanted ones, only its
    `subset_name` is read.
    """
    size, done = path.stat().st_size, 0
    try:
        metadata = pq.read_metadata(path)
        # buffer_size streams the column chunks: without it a row group's chunks are loaded whole.
        with pq.ParquetFile(
            path,
            metadata=metadata,
            pre_buffer=False,
            buffer_size=1 << 20,
            read_dictionary=_dictionaries(metadata),
            page_checksum_verification=True,
        ) as file:
            total = file.metadata.num_rows
            batch_rows = _batch_rows(metadata)
            can = row_groups_with(wanted, file)
            for has_wanted, stretch in groupby(range(len(can)), can.__getitem__):
                numbered = list(stretch)
                if not has_wanted:
                    names = file.read_row_groups(numbered, columns=["subset_name"])["subset_name"]
                    done += len(names)
                    nothing = pa.RecordBatch.from_pylist([], SCHEMA.remove(SCHEMA.get_field_index("source")))
                    yield _Part(nothing, Counter(counts(names)), [], size * done // total)
                    continue
                for batch in _one_ahead(file.iter_batches(batch_rows, numbered, columns=form.columns)):
                    texts = [_plain(batch[column]) for column in COLUMNS]
                    if form.subset != "subset_name":
                        texts[COLUMNS.index("subset_name")] = _subsets_of(batch, form.subset)
                    numbers = pa.array(np.arange(done + 1, done + 1 + len(batch)))
                    done += len(batch)
                    rows = pa.record_batch([numbers, *texts], names=["row", *COLUMNS])
                    yield _sort_out(rows, wanted, size * done // total)
    except DAMAGE as error:
        raise CorpusError(damaged(name, error, f"it could be read up to row {done:,}")) from error


def _dictionaries(metadata: pq.FileMetaData) -> list[str]:
    """The repetitive columns that can be read as dictionaries: their text is then decoded once."""
    found = set(REPETITIVE[1:])
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema in found and not set(column.encodings) <= _ENCODINGS:
                found.remove(column.path_in_schema)
    return sorted(found)


def _batch_rows(metadata: pq.FileMetaData) -> int:
    """How many rows fit into a batch."""
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    heaviest = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
    return min(_BATCH_ROWS, max(64, _BATCH_BYTES // max(1, heaviest)))


def _subsets_of(batch: pa.RecordBatch, column: str) -> pa.Array:
    """The subset of each row, from a column of one's own, or the same for all."""
    if not column:
        return pa.repeat(UNDIVIDED, len(batch))
    values = batch[column].dictionary_encode() if not pa.types.is_dictionary(batch[column].type) else batch[column]
    names = [None if value is None else subset_name(value) for value in _values(values.dictionary)]
    return pa.array(names, pa.string()).take(values.indices)


def _values(column: pa.Array) -> list[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [value.decode("utf-8", "replace") for value in column.cast(pa.binary()).to_pylist()]


def subset_name(value: Any) -> str | None:
    """The name of a subset as tables, figures and cards can show it; None where a value can be none.

    Other signs than letters, digits and a few more become an underscore; a number or a truth value is written out.
    """
    if type(value) not in (str, int, float, bool):
        return None
    text = re.sub(r"[^\w .,:+()/-]", "_", " ".join(str(value).split()))[:_LONGEST_SUBSET].strip()
    # matplotlib leaves a label that begins with an underscore out of a legend; and a table's last line is called all.
    text = text.lstrip("_") if value != "all" else "all (a subset)"
    return text or None


def _plain(column: pa.Array) -> pa.Array:
    """Text as plain strings; dictionaries stay, because filtering them is cheaper."""
    ready = column.type == pa.string() or pa.types.is_dictionary(column.type)
    return column if ready else column.cast(pa.string())


def _one_ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same batches; the next one is read on a thread while the caller works on this one."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


def _row_parts(name: str, path: Path, form: Format, wanted: frozenset[str] | None) -> Iterator[_Part]:
    """The rows of a file that is read row by row: all but parquet in Cendol's columns."""
    number = size = 0
    not_utf8: list[int] = []
    example = ""
    rows: list[tuple[Any, ...]] = []
    left_out: Counter[str] = Counter()
    bad: list[_BadRow] = []
    take = _cendol(form, wanted) if form.shape == CENDOL else _other(form)
    kinds = [pa.int64()] + [pa.string()] * len(COLUMNS)
    names = ["row", *COLUMNS]
    if form.shape != CENDOL:
        kinds, names = [*kinds, TURNS.type], [*names, TURNS.name]

    def part() -> _Part:
        values = zip(*rows, strict=True) if rows else [()] * len(kinds)
        arrays = [pa.array(column, type=kind) for column, kind in zip(values, kinds, strict=True)]
        sorted_out = _sort_out(pa.record_batch(arrays, names=names), wanted, position())
        return sorted_out._replace(left_out=left_out, bad=sorted(bad + sorted_out.bad, key=lambda fault: fault.row))

    try:
        with _rows(name, path, form) as (found, position):
            for number, length, row in found:
                size += length
                made = row if type(row) is _BadRow else take(number, row)
                if isinstance(made, _BadRow):
                    bad.append(made)
                    if made.reason == "invalid UTF-8":
                        not_utf8.append(made.row)
                        example = example or made.value
                elif isinstance(made, str):
                    left_out[made] += 1
                else:
                    rows.append(made)
                if len(rows) + len(bad) >= _BATCH_ROWS or size >= _BATCH_BYTES:
                    yield part()
                    size, rows, left_out, bad = 0, [], Counter(), []
            # A few rows may be damaged; where many are, the file is in another encoding.
            if len(not_utf8) > max(2, number // 100) and form.container != PARQUET:
                raise CorpusError(
                    f"{name} is not in UTF-8: {len(not_utf8):,} of its {number:,} rows have other bytes, first row "
                    f"{not_utf8[0]:,} ({example}). Convert it, such as from Latin-1: iconv -f WINDOWS-1252 -t UTF-8"
                )
            yield part()
    except DAMAGE as error:
        raise CorpusError(damaged(name, error, f"it could be read up to row {number:,}")) from error


@contextmanager
def _rows(name: str, path: Path, form: Format) -> Iterator[tuple[Iterator[tuple[int, int, Any]], Callable[[], int]]]:
    """The rows of a file with their numbers and sizes, as dictionaries or what else they are, or as bad ones.

    And a function that returns how many bytes of the file are read.
    """
    if form.container == PARQUET:
        with (
            path.open("rb") as raw,
            pq.ParquetFile(raw, pre_buffer=False, buffer_size=BUFFER, page_checksum_verification=True) as file,
        ):
            yield _parquet_rows(file, form.columns), raw.tell
        return
    with opened(path) as (stream, raw, *_):
        if form.container == LINES:
            yield _line_rows(lines(name, stream)), raw.tell
        elif form.container == VALUES:
            numbered = enumerate(json_values(name, stream), 1)
            yield ((number, length, value) for number, (value, length) in numbered), raw.tell
        else:
            yield _table_rows(name, stream, form.delimiter), raw.tell


def _line_rows(found: Iterator[bytes]) -> Iterator[tuple[int, int, Any]]:
    for number, line in enumerate(found, 1):
        try:
            yield number, len(line), orjson.loads(line)
        except orjson.JSONDecodeError:
            if line and not line.isspace():
                yield number, len(line), _BadRow(number, _json_fault(line), _clip(line), None)


def _table_rows(name: str, stream: Any, delimiter: str) -> Iterator[tuple[int, int, Any]]:
    found = table_rows(name, stream, delimiter)
    first = next(found)
    if not isinstance(first, list):
        raise CorpusError(
            f"{name}: its first line, which names the columns, is not well-formed CSV ({first}). Mend it: a name in "
            "quotation marks ends with the second, and quotation marks within it are doubled."
        )
    names = column_names(first)
    for number, cells in enumerate(found, 1):
        if not isinstance(cells, list):
            yield number, 0, _BadRow(number, "not well-formed CSV", str(cells), None)
        elif len(cells) != len(names):
            yield number, 0, _BadRow(number, "another number of columns", _shown(cells), None)
        else:
            yield number, sum(map(len, cells)), dict(zip(names, cells, strict=True))


def _parquet_rows(file: pq.ParquetFile, columns: list[str]) -> Iterator[tuple[int, int, Any]]:
    number = 0
    for batch in _one_ahead(file.iter_batches(_batch_rows(file.metadata), columns=columns)):
        size = batch.nbytes // max(1, len(batch))
        for row in _dictionaries_of(batch):
            number += 1
            yield number, size, row if row is not None else _BadRow(number, "invalid UTF-8", None, None)


def _dictionaries_of(batch: pa.RecordBatch) -> list[dict[str, Any] | None]:
    """The rows of a batch; None for one that has invalid text."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        if len(batch) == 1:
            return [None]
        half = len(batch) // 2
        return [*_dictionaries_of(batch.slice(0, half)), *_dictionaries_of(batch.slice(half))]


def _cendol(form: Format, wanted: frozenset[str] | None) -> Callable[[int, Any], tuple[Any, ...] | str | _BadRow]:
    """What makes of a row in Cendol's columns its values, the name of a subset that is left out, or a bad row."""
    own = form.subset != "subset_name"
    escaped = form.container != LINES

    def take(number: int, row: Any) -> tuple[Any, ...] | str | _BadRow:
        subset = row.get("subset_name") if type(row) is dict else None
        if wanted is not None and type(subset) is str and subset not in wanted:
            return subset
        if fault := _row_fault(number, row):
            return fault
        values = [row[column] for column in COLUMNS]
        if own:
            values[1] = subset_name(row.get(form.subset)) if form.subset else UNDIVIDED
        if escaped:
            try:
                check_unicode(value for value in values if value is not None)
            except RowError as error:
                return _BadRow(number, error.reason, _shown(error.value), subset if type(subset) is str else None)
        return (number, *values)

    return take


def _other(form: Format) -> Callable[[int, Any], tuple[Any, ...] | _BadRow]:
    """What makes of a row of another shape its values in Cendol's columns and its turns, or a bad row."""

    def take(number: int, row: Any) -> tuple[Any, ...] | _BadRow:
        if type(row) is not dict:
            return _BadRow(number, "not a JSON object", _shown(row), None)
        subset = subset_name(row.get(form.subset)) if form.subset else UNDIVIDED
        if subset is None:
            return _BadRow(number, f"{form.subset} names no subset", _shown(row.get(form.subset)), None)
        try:
            found = pair(form.shape, row)
        except RowError as error:
            return _BadRow(number, error.reason, _shown(error.value), subset)
        return number, None, subset, None, None, None, found.input, found.output, found.turns

    return take


def _shown(value: Any) -> str:
    """A value of a bad row, in short."""
    if type(value) is str:
        text = value
    else:
        try:
            text = orjson.dumps(value).decode()
        except TypeError:
            # A number that is too large, a lone surrogate, or lists in lists in lists.
            text = str(type(value))
    return str(_clip(text[: 4 * _CLIP].encode("utf-8", "backslashreplace")))


def _sort_out(batch: pa.RecordBatch, wanted: frozenset[str] | None, position: int) -> _Part:
    """Keep the wanted rows that are sound. `batch` has `row` and the seven columns, and may have `turns`."""
    bad: list[_BadRow] = []
    batch = _drop_broken_text(batch, "subset_name", bad)
    batch = _drop(batch, pc.is_null(batch["subset_name"]), "subset_name is null", "subset_name", bad)
    left_out: Counter[str] = Counter()
    if wanted is not None:
        left_out.update({name: rows for name, rows in counts(batch["subset_name"]).items() if name not in wanted})
        batch = batch.filter(pc.is_in(batch["subset_name"], pa.array(sorted(wanted))))
    batch = batch.cast(pa.schema([(name, pa.int64() if name == "row" else pa.string()) for name in batch.schema.names]))
    for column in COLUMNS:
        batch = _drop_broken_text(batch, column, bad)
    for column in ("input", "output"):
        batch = _drop(batch, pc.is_null(batch[column]), f"{column} is null", column, bad)
        blank = pc.or_(pc.equal(pc.binary_length(batch[column]), 0), pc.utf8_is_space(batch[column]))
        batch = _drop(batch, blank, f"empty {column}", column, bad)
    return _Part(batch, left_out, sorted(bad, key=lambda fault: fault.row), position)


def _drop(batch: pa.RecordBatch, mask: pa.Array, reason: str, column: str, bad: list[_BadRow]) -> pa.RecordBatch:
    if not mask.true_count:
        return batch
    faulty = batch.filter(mask)
    values = [_clip(value) for value in faulty[column].cast(pa.string()).cast(pa.binary()).to_pylist()]
    names = [None] * len(faulty) if column == "subset_name" else faulty["subset_name"].to_pylist()
    bad.extend(map(_BadRow, faulty["row"].to_pylist(), [reason] * len(faulty), values, names))
    return batch.filter(pc.invert(mask))


def _drop_broken_text(batch: pa.RecordBatch, column: str, bad: list[_BadRow]) -> pa.RecordBatch:
    try:
        batch[column].validate(full=True)
        if pa.types.is_dictionary(batch[column].type):
            batch[column].dictionary.validate(full=True)
        return batch
    except pa.ArrowInvalid:
        faults = [_text_fault(value) for value in _bytes(batch[column])]
    for reason in ("invalid UTF-8", "lone surrogate"):
        mask = pa.array([fault == reason for fault in faults])
        faulty = batch.filter(mask)
        names = [None] * len(faulty) if column == "subset_name" else faulty["subset_name"].to_pylist()
        values = [_clip(value) for value in _bytes(faulty[column])]
        bad.extend(map(_BadRow, faulty["row"].to_pylist(), [reason] * len(faulty), values, names))
    return batch.filter(pa.array([fault is None for fault in faults]))


def _bytes(column: pa.Array) -> list[bytes | None]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.binary()).to_pylist()


def _text_fault(text: bytes | None) -> str | None:
    if text is None:
        return None
    try:
        text.decode()
    except UnicodeDecodeError:
        try:
            text.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return "invalid UTF-8"
        return "lone surrogate"
    return None


def _json_fault(line: bytes) -> str:
    """Why a line could not be parsed."""
    if fault := _text_fault(line):
        return fault
    # The standard library lets lone surrogates pass, which is how they are distinguished from a syntax error here.
    try:
        json.dumps(json.loads(line), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "lone surrogate"
    except (ValueError, RecursionError):
        return "not valid JSON"
    return "not valid JSON"


def _row_fault(number: int, row: Any) -> _BadRow | None:
    """What is wrong with the form of a parsed row, if anything. Nulls pass: they are checked in the batch."""
    if type(row) is not dict:
        return _BadRow(number, "not a JSON object", _shown(row), None)
    subset = row.get("subset_name")
    subset = subset if type(subset) is str else None
    for column in COLUMNS:
        if column not in row:
            return _BadRow(number, f"missing key: {column}", _shown(row), subset)
        if type(row[column]) is not str and row[column] is not None:
            return _BadRow(number, f"{column} is not a string", _shown(row[column]), subset)
    return None


def counts(column: pa.Array) -> dict[str, int]:
    return {pair["values"]: pair["counts"] for pair in pc.value_counts(column).to_pylist()}


def _clip(value: bytes | None) -> str | None:
    if value is None:
        return None
    text = value[: 4 * _CLIP].decode("utf-8", "backslashreplace").rstrip("\r\n")
    return text if len(text) <= _CLIP else f"{text[:_CLIP]}…"
