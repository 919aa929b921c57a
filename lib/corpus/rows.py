"""The rows in a corpus file, parquet or JSON lines: the wanted ones, the left-out ones and the bad ones, separated."""

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lib.corpus.files import COLUMNS, DAMAGE, CorpusError, damaged, lines, open_lines, row_groups_with

SCHEMA = pa.schema([("row", pa.int64()), ("source", pa.string()), *((name, pa.string()) for name in COLUMNS)])
REPETITIVE = ["source", "dataset_name", "subset_name", "template_name", "dataset_key"]
_BATCH_ROWS = 8_192
_BATCH_BYTES = 32 << 20
_CLIP = 200


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


def parquet_parts(name: str, path: Path, wanted: frozenset[str]) -> Iterator[_Part]:
    """The rows of a parquet file. Where a row group has none of the wanted ones, only its `subset_name` is read."""
    size, done = path.stat().st_size, 0
    try:
        # buffer_size streams the column chunks: without it a row group's chunks are loaded whole.
        with pq.ParquetFile(
            path,
            pre_buffer=False,
            buffer_size=1 << 20,
            read_dictionary=REPETITIVE[1:],
            page_checksum_verification=True,
        ) as file:
            total = file.metadata.num_rows
            groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
            heaviest = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
            batch_rows = min(_BATCH_ROWS, max(64, _BATCH_BYTES // max(1, heaviest)))
            can = row_groups_with(wanted, file)
            for has_wanted, stretch in groupby(range(len(can)), can.__getitem__):
                numbered = list(stretch)
                if not has_wanted:
                    names = file.read_row_groups(numbered, columns=["subset_name"])["subset_name"]
                    done += len(names)
                    nothing = pa.RecordBatch.from_pylist([], SCHEMA.remove(SCHEMA.get_field_index("source")))
                    yield _Part(nothing, Counter(counts(names)), [], size * done // total)
                    continue
                for batch in _one_ahead(file.iter_batches(batch_rows, numbered, columns=list(COLUMNS))):
                    texts = [_plain(batch[column]) for column in COLUMNS]
                    numbers = pa.array(np.arange(done + 1, done + 1 + len(batch)))
                    done += len(batch)
                    rows = pa.record_batch([numbers, *texts], names=["row", *COLUMNS])
                    yield _sort_out(rows, wanted, size * done // total)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(damaged(name, error, f"it could be read up to row {done:,}")) from error


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


def jsonl_parts(name: str, path: Path, wanted: frozenset[str]) -> Iterator[_Part]:
    number = size = 0
    rows: list[tuple[Any, ...]] = []
    left_out: Counter[str] = Counter()
    bad: list[_BadRow] = []

    def part() -> _Part:
        values = zip(*rows, strict=True) if rows else [()] * 8
        kinds = [pa.int64()] + [pa.string()] * len(COLUMNS)
        arrays = [pa.array(column, type=kind) for column, kind in zip(values, kinds, strict=True)]
        sorted_out = _sort_out(pa.record_batch(arrays, names=["row", *COLUMNS]), wanted, raw_position())
        return sorted_out._replace(left_out=left_out, bad=sorted(bad + sorted_out.bad, key=lambda fault: fault.row))

    with open_lines(path) as (stream, raw_position):
        try:
            for number, line in enumerate(lines(name, stream), 1):
                if line.isspace() or not line:
                    continue
                size += len(line)
                try:
                    row = orjson.loads(line)
                except orjson.JSONDecodeError:
                    bad.append(_BadRow(number, _json_fault(line), _clip(line), None))
                    row = None
                else:
                    subset = row.get("subset_name") if type(row) is dict else None
                    if type(subset) is str and subset not in wanted:
                        left_out[subset] += 1
                    elif fault := _row_fault(number, row):
                        bad.append(fault)
                    else:
                        rows.append((number, *[row[column] for column in COLUMNS]))
                if len(rows) + len(bad) >= _BATCH_ROWS or size >= _BATCH_BYTES:
                    yield part()
                    size, rows, left_out, bad = 0, [], Counter(), []
            yield part()
        except (*DAMAGE, OSError) as error:
            raise CorpusError(damaged(name, error, f"it could be read up to line {number:,}")) from error


def _sort_out(batch: pa.RecordBatch, wanted: frozenset[str], position: int) -> _Part:
    """Keep the wanted rows that are sound. `batch` has `row` and the seven columns."""
    bad: list[_BadRow] = []
    batch = _drop_broken_text(batch, "subset_name", bad)
    batch = _drop(batch, pc.is_null(batch["subset_name"]), "subset_name is null", "subset_name", bad)
    left_out = Counter({name: rows for name, rows in counts(batch["subset_name"]).items() if name not in wanted})
    batch = batch.filter(pc.is_in(batch["subset_name"], pa.array(sorted(wanted))))
    batch = batch.cast(pa.schema([("row", pa.int64()), *((name, pa.string()) for name in COLUMNS)]))
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
        return _BadRow(number, "not a JSON object", _clip(orjson.dumps(row)), None)
    subset = row.get("subset_name")
    subset = subset if type(subset) is str else None
    for column in COLUMNS:
        if column not in row:
            return _BadRow(number, f"missing key: {column}", _clip(orjson.dumps(row)), subset)
        if type(row[column]) is not str and row[column] is not None:
            return _BadRow(number, f"{column} is not a string", _clip(orjson.dumps(row[column])), subset)
    return None


def counts(column: pa.Array) -> dict[str, int]:
    return {pair["values"]: pair["counts"] for pair in pc.value_counts(column).to_pylist()}


def _clip(value: bytes | None) -> str | None:
    if value is None:
        return None
    text = value[: 4 * _CLIP].decode("utf-8", "backslashreplace").rstrip("\r\n")
    return text if len(text) <= _CLIP else f"{text[:_CLIP]}…"
