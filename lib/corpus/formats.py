"""How a file holds its rows: recognised by what is in it, not by its name, or refused with what was found.

A file has a container (parquet, JSON lines, JSON, or CSV), perhaps a packing and an encoding of its own, and its rows
have a shape: the columns that hold prompt and completion.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from lib.config import nearest
from lib.corpus.files import (
    BUFFER,
    COLUMNS,
    DAMAGE,
    LINE_BYTES,
    SUFFIXES,
    CorpusError,
    damaged,
    denied,
    lines,
    listed,
    opened,
)

PARQUET, LINES, VALUES, TABLE = "parquet", "JSON lines", "JSON", "CSV"
CENDOL = "Cendol's columns"
#: By name, the columns that a row of each shape must have. The first whose columns a file has is its shape.
SHAPES = {
    CENDOL: COLUMNS,
    "messages": ("messages",),
    "ShareGPT": ("conversations",),
    "prompt and completion": ("prompt", "completion"),
    "Alpaca": ("instruction", "output"),
    "input and output": ("input", "output"),
}
#: Columns whose value may be a list of turns; all others hold text.
TURNS = ("messages", "conversations", "prompt", "completion")
#: What `subsets` is called where a corpus is to have none.
NONE = "none"
_FIRST_ROWS = 100
_SPACE = re.compile(r"\s*")
_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons"}
_SPREADSHEET = ("a spreadsheet", "Save its sheet as CSV, in UTF-8")
_ARROW = ("an Arrow file", "Write it as parquet, by pyarrow or datasets")
#: How files begin that hold no text, what they are, and what to do with them.
_BINARY = {
    b"PK\x03\x04": ("a zip archive", "Unpack it: unzip"),
    b"\xd0\xcf\x11\xe0": _SPREADSHEET,
    b"BZh": ("packed with bzip2", "Unpack it: bunzip2"),
    b"\xfd7zXZ": ("packed with xz", "Unpack it: unxz"),
    b"\x1f\x8b": ("packed twice", "Unpack it once: gunzip"),
    b"\x28\xb5\x2f\xfd": ("packed twice", "Unpack it once: unzstd"),
    b"PAR1": ("a packed parquet file", "Unpack it: parquet packs its columns itself"),
    b"ARROW1": _ARROW,
    b"\xff\xff\xff\xff": _ARROW,
}
#: What the names in a zip archive begin with, or its first file says, where it is a spreadsheet.
_SHEETS = (b"xl/work", b"opendocument.spreadsheet")


class Format(NamedTuple):
    """What a file was recognised as."""

    container: str
    shape: str
    subset: str
    """The column that names each row's subset; empty where rows have none."""
    packed: str = ""
    encoding: str = ""
    """Empty for UTF-8."""
    delimiter: str = ""
    """What stands between the columns of CSV."""
    system: bool = False
    """Whether a column of its own, `system`, has what a system's turn says."""

    @property
    def columns(self) -> list[str]:
        """What is read of each row."""
        more = ["input"] if self.shape == "Alpaca" else []
        named = [*SHAPES[self.shape], *more, *(["system"] if self.system else []), self.subset]
        return list(dict.fromkeys(name for name in named if name))

    def __str__(self) -> str:
        """As the run says it: `JSON lines (gzip): Alpaca`."""
        between = f"separated by {_DELIMITERS[self.delimiter]}" if self.delimiter not in ("", ",") else ""
        details = listed([detail for detail in (self.packed, self.encoding, between) if detail])
        return f"{self.container}{f' ({details})' if details else ''}: {self.shape}"


class NoRowsError(CorpusError):
    """A file that need not hold rows, such as a package.json or an archive that lies beside them."""


def recognise(name: str, path: Path, subsets: str = "") -> Format:
    """What a file is, from its beginning, or from its footer where it is parquet.

    Args:
        name: what messages call it.
        subsets: the column that names each row's subset; `none` for no subsets; empty for Cendol's own column where
            the file has Cendol's columns, and none elsewhere.

    Raises:
        NoRowsError: if it is one JSON document, or a table, that holds other things than rows.
        CorpusError: if it cannot be read, or its rows have no shape that is known.
    """
    part = "beginning"
    try:
        with path.open("rb") as raw:
            begins = raw.read(4)
            raw.seek(-min(4, raw.seek(0, io.SEEK_END)), io.SEEK_END)
            read, part = (_parquet, "footer") if b"PAR1" in (begins, raw.read(4)) else (_text, "beginning")
        return read(name, path, subsets)
    except PermissionError:
        raise denied(path) from None
    except DAMAGE as error:
        raise CorpusError(damaged(name, error, f"not even its {part} could be read")) from error


def _parquet(name: str, path: Path, subsets: str) -> Format:
    with path.open("rb") as raw, pq.ParquetFile(raw) as file:
        schema = file.schema_arrow
    found = _format(name, schema.names, subsets, container=PARQUET)
    for column in found.columns:
        places = schema.get_all_field_indices(column)
        if len(places) > 1:
            raise _twice(name, column)
        for place in places:
            kind = schema.field(place).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            of_turns = column in TURNS and pa.types.is_nested(kind)
            text = kind in (pa.string(), pa.large_string(), pa.string_view(), pa.null())
            # The name of a subset may be a number.
            of_subset = column not in SHAPES[found.shape] and column == found.subset and not pa.types.is_nested(kind)
            if not (text or of_turns or of_subset):
                raise CorpusError(f"{name}: column {column!r} is {kind}, not text. Write it as strings.")
    return found


def _text(name: str, path: Path, subsets: str) -> Format:
    with opened(path) as (stream, _, packed, encoding):
        head = stream.read(BUFFER)
        whole = not stream.read(1)
    known: dict[str, Any] = {"packed": packed, "encoding": encoding}
    text = head.lstrip()
    if not text and whole:
        raise NoRowsError(f"{name} has no rows: it is empty. Check that it is whole.")
    if text[:1] not in (b"[", b"{") or text[1:2] == b"\0":
        _refuse_binary(name, head)
        if table := _table(name, head, subsets, known):
            return table
    container = LINES if _is_lines(text) else VALUES
    with opened(path) as (stream, *_):
        rows = [row for row in islice(_json(name, stream, container), _FIRST_ROWS) if isinstance(row, dict)]
    if not rows and text[:1] == b"[" and whole and not text.strip(b"[] \r\n\t"):
        raise NoRowsError(f"{name} has no rows: its array is empty. Check that it is whole.")
    if not rows:
        begins = text[:60].split(b"\n")[0].decode("utf-8", "backslashreplace").strip()
        raise CorpusError(
            f"{name} begins with no row that can be read, but with {begins!r}. Write its rows as JSON lines, an object "
            "each, or as CSV with the names of its columns above."
        )
    document = whole and len(rows) == 1
    if document:
        _refuse_layout(name, path, rows[0])
    found = list(dict.fromkeys(column for row in rows for column in row))
    return _format(name, found, subsets, is_rows=not document, container=container, **known)


def _is_lines(text: bytes) -> bool:
    """Whether the beginning of a file has a value a line. Else it is an array, or its values are parted otherwise."""
    line, _, more = text.partition(b"\n")
    try:
        return isinstance(orjson.loads(line), dict) or bool(more.strip())
    except orjson.JSONDecodeError:
        if text[:1] != b"{":
            return text[:1] != b"["
        # A first row that is bad, or longer than this beginning, is no value; one that goes over lines is.
        return line.strip() != b"{" and not _begins_with_value(text)


def _begins_with_value(text: bytes) -> bool:
    try:
        json.JSONDecoder().raw_decode(text.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return False
    return True


def _json(name: str, stream: Any, container: str) -> Iterator[Any]:
    """The values of JSON, or of JSON lines, None for a line that cannot be read."""
    if container == VALUES:
        yield from (value for value, _ in json_values(name, stream))
        return
    for line in lines(name, stream):
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError:
            yield None


def json_values(name: str, stream: Any) -> Iterator[tuple[Any, int]]:
    """The values of a stream of JSON, and how long each is: the items of its array, or values that follow each other.

    One value is in memory at a time. What is not UTF-8 becomes a lone surrogate in its value.

    Raises:
        CorpusError: where it is no JSON, or ends too early.
    """
    # orjson and pyarrow read an array at once, and so would fill the memory with a large one.
    scan, decode = json.JSONDecoder().raw_decode, codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    text, at, count, ended = "", 0, 0, False

    def more() -> bool:
        nonlocal text, at, ended
        if ended:
            return False
        data = stream.read(max(BUFFER, len(text) - at))
        ended = not data
        text, at = text[at:] + decode(data, ended), 0
        return True

    def sign() -> str:
        """The next character that is no space, where `at` then is; empty at the end."""
        nonlocal at
        while True:
            at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
            if at < len(text) or not more():
                return text[at : at + 1]

    def broken(why: str) -> CorpusError:
        return CorpusError(
            f"{name} is damaged or cut short: it could be read up to value {count:,} ({why}). Get the file again."
        )

    array = sign() == "["
    at += array
    while (found := sign()) and not (array and found == "]"):
        if array and count:
            if found != ",":
                raise broken("no comma follows")
            at += 1
            sign()
        while True:
            try:
                value, end = scan(text, at)
                # A number might go on.
                if ended or end < len(text):
                    break
                why = ""
            except (ValueError, RecursionError) as error:
                why = str(error)
            if len(text) - at > LINE_BYTES:
                raise broken(f"the next is over {LINE_BYTES >> 20} MB, or no JSON")
            if not more():
                raise broken(why)
        length, at = end - at, end
        count += 1
        yield value, length
    if array:
        if not found:
            raise broken("its array is not closed")
        at += 1
        if sign():
            raise broken("something follows its array")


def table_rows(name: str, stream: Any, delimiter: str) -> Iterator[list[str] | csv.Error]:
    """The records of CSV, its names first; of one that is not well-formed, why.

    What is not UTF-8 becomes lone surrogates.

    Raises:
        CorpusError: if a quotation mark is opened and never closed.
    """
    csv.field_size_limit(LINE_BYTES)
    text = io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="")
    reader = csv.reader(lines(name, text), delimiter=delimiter, strict=True)
    try:
        while True:
            begins = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end" in str(error) or "field limit" in str(error):
                    raise CorpusError(
                        f"{name} is damaged or cut short: a quotation mark in the record of line {begins:,} is not "
                        "closed. Get the file again, or double the quotation marks within its texts."
                    ) from None
                yield error
            else:
                # An empty line is no record.
                if cells:
                    yield cells
    finally:
        # Else the stream would be closed with it, and with that the file, which says how far it was read.
        if not stream.closed:
            text.detach()


def _table(name: str, head: bytes, subsets: str, known: dict[str, Any]) -> Format | None:
    """CSV, separated so that its names make a known shape. None where they make none, nor is the file called one."""
    text = head.lstrip(b" \r\n").decode("utf-8", "surrogateescape")
    most: list[str] = []
    for delimiter in _DELIMITERS:
        try:
            found = column_names(next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)))
        except csv.Error:
            continue
        if _shape(found):
            table = _format(name, found, subsets, container=TABLE, delimiter=delimiter, **known)
            for column in table.columns:
                if found.count(column) > 1:
                    raise _twice(name, column)
            return table
        most = max(most, found, key=len)
    if not name.lower().removesuffix(".gz").removesuffix(".zst").endswith((".csv", ".tsv")):
        return None
    raise _unknown(name, most, NoRowsError)


def column_names(cells: Sequence[str]) -> list[str]:
    """The names in the first record of CSV."""
    return [cell.strip() for cell in cells]


def _format(name: str, found: Sequence[str], subsets: str, is_rows: bool = True, **known: Any) -> Format:
    shape = _shape(found)
    own = [column for column in COLUMNS if column in found]
    if shape in ("", "input and output") and len(own) > 2 and not subsets:
        column = next(column for column in COLUMNS if column not in found)
        raise CorpusError(
            f"{name} has no column {column!r}{nearest(column, found)}; its columns are {_some(found)}. Rename them to "
            f"{listed(COLUMNS)}; or have input and output, and say by SUBSETS which column names the subset, or {NONE}."
        )
    if not shape:
        raise _unknown(name, found, CorpusError if is_rows else NoRowsError)
    if subsets not in ("", NONE, *found):
        raise CorpusError(
            f"{name} has no column {subsets!r}{nearest(subsets, found)}; its columns are {_some(found)}. SUBSETS names "
            f"the column that says which subset a row belongs to, or is {NONE}."
        )
    subset = {"": "subset_name" if shape == CENDOL else "", NONE: ""}.get(subsets, subsets)
    return Format(shape=shape, subset=subset, system="system" in found and shape != CENDOL, **known)


def _shape(found: Sequence[str]) -> str:
    return next((shape for shape, columns in SHAPES.items() if set(columns) <= set(found)), "")


def _unknown(name: str, found: Sequence[str], kind: type[CorpusError]) -> CorpusError:
    shapes = [" and ".join(columns) for shape, columns in SHAPES.items() if shape != CENDOL]
    has = f"the columns {_some(found)}" if found else "rows without columns"
    return kind(
        f"{name} has {has}, and none of the shapes that are known. Rename them: to "
        f"{', or '.join(shapes)}, or to Cendol's, which are {listed(COLUMNS)}."
    )


def _twice(name: str, column: str) -> CorpusError:
    return CorpusError(f"{name} has the column {column!r} twice. Rename one of them, or leave it out.")


def _some(found: Sequence[str]) -> str:
    shown = [column if len(column) <= 40 else f"{column[:40]}…" for column in found[:20]]
    text = listed([column.encode("utf-8", "backslashreplace").decode() for column in shown])
    return text if len(found) <= 20 else f"{text} and {len(found) - 20} more"


def _refuse_layout(name: str, path: Path, row: dict[str, Any]) -> None:
    """Refuse a document whose rows are further inside, or that has a column where a row has a value."""
    shape = _shape(list(row))
    values = [row[column] for column in SHAPES.get(shape, ())]
    if shape and all(
        # Turns are a list too, but none of lists.
        isinstance(value, (dict, list)) and not (column in TURNS and isinstance(value, list) and _are_turns(value))
        for column, value in zip(SHAPES[shape], values, strict=True)
    ):
        raise CorpusError(
            f'{name} has one value a column, not one a row. Write it by rows: python -c "import pandas; '
            f"pandas.read_json('{path.name}').to_json('rows.jsonl', orient='records', lines=True)\""
        )
    inside = [key for key, value in row.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if not shape and inside:
        raise NoRowsError(
            f"{name} is one document, with lists under {_some(inside)}. Where these are its rows, write them one a "
            f"line: jq -c '.{inside[0]}[]' {path.name}"
        )


def _are_turns(value: list[Any]) -> bool:
    return bool(value) and isinstance(value[0], dict)


def _refuse_binary(name: str, head: bytes) -> None:
    kind = CorpusError if name.lower().endswith(SUFFIXES) else NoRowsError
    for begins, (what, cure) in _BINARY.items():
        if head.startswith(begins):
            what, cure = _SPREADSHEET if what == "a zip archive" and any(map(head.count, _SHEETS)) else (what, cure)
            raise kind(f"{name} is {what}. {cure}.")
    if b"\0" not in head[:4096]:
        return
    first, second = head[:4096:2].count(0), head[1:4096:2].count(0)
    if max(first, second) > 4 * min(first, second) + len(head[:4096]) // 8:
        order = "BE" if first > second else "LE"
        raise CorpusError(
            f"{name} looks like UTF-16 without a byte-order mark (byte {head.index(0) + 1:,} is 0). Convert it: "
            f"iconv -f UTF-16{order} -t UTF-8"
        )
    raise CorpusError(
        f"{name} is neither text nor parquet (byte {head.index(0) + 1:,} is 0). Get the file again, or write its rows "
        "as parquet, JSON lines or CSV."
    )
