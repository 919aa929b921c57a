"""The corpus: rows in the schema of the Cendol Collection, of which the wanted subsets are kept in one parquet file."""

import contextlib
import difflib
import glob
import gzip
import hashlib
import io
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from lib.config import Config
from lib.demo import corpus as demo_corpus
from lib.paths import ROOT
from lib.storage import write_json

SUBSETS = ("indo_puisi", "wikihow", "wikipedia_id", "safety_prompt", "identity_prompt", "dolly")
COLUMNS = ("dataset_name", "subset_name", "prompt_id", "template_name", "dataset_key", "input", "output")
SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".json", ".json.gz")
BAD_ROWS = "bad_rows.jsonl"

_SCHEMA = pa.schema([("row", pa.int64()), ("source", pa.string()), *((name, pa.string()) for name in COLUMNS)])
_REPETITIVE = ["source", "dataset_name", "subset_name", "template_name", "dataset_key"]
_BATCH_ROWS = 8_192
_BATCH_BYTES = 32 << 20
_GROUP_ROWS = 50_000
_GROUP_BYTES = 128 << 20
_LINE_BYTES = 64 << 20
_CLIP = 200
_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile)


class CorpusError(ValueError):
    """The corpus cannot be used; the message says what is wrong, where, and what to do about it."""


@dataclass(frozen=True)
class CorpusSummary:
    """What `select` read and what became of it: rows_read = kept + left_out + bad, each summed.

    `files` are names relative to the corpus; `kept` has every subset that was asked for, 0 where it has no rows;
    `left_out` counts the rows of other subsets, whose text is not looked at; `bad` counts the rows set aside, by
    reason; `fingerprint` is a SHA-256 over the names and the bytes of all files.
    """

    corpus: str
    files: tuple[str, ...]
    rows_read: int
    kept: dict[str, int]
    left_out: dict[str, int]
    bad: dict[str, int]
    fingerprint: str

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values that JSON can hold."""
        return asdict(self) | {"files": list(self.files)}

    def to_json(self) -> str:
        """The fields as indented JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2)


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


def select(corpus: str, destination: Path, subsets: Sequence[str] = SUBSETS) -> CorpusSummary:
    """Write the rows of `subsets` to the parquet file `destination`, in the order of the corpus.

    `corpus` is a parquet or JSON-lines file (gzipped or not), a glob, a folder of such files, or the id of a data
    set on the hub. The file written has `row` (from 1, within its file: the line of a JSON-lines file), `source`
    (the name of that file) and the seven `COLUMNS`. It appears only when it is whole. Rows that cannot be used go
    to `bad_rows.jsonl` beside it, with their reason; that file is written even if it stays empty. Memory does not
    grow with the corpus. Raises CorpusError if the corpus cannot be used.
    """
    _check_subsets(subsets)
    destination = Path(destination)
    bad_rows = destination.with_name(BAD_ROWS)
    files = _find_files(corpus)
    _check_apart(corpus, files, destination, bad_rows)
    for name, path in files.items():
        _check_file(name, path)

    destination.parent.mkdir(parents=True, exist_ok=True)
    whole = destination.with_name(f".{destination.name}.{os.getpid()}.partial")
    whole_bad = destination.with_name(f".{BAD_ROWS}.{os.getpid()}.partial")
    kept: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    bad_wanted = 0
    try:
        with (
            _writer(whole) as write,
            whole_bad.open("wb") as bad_file,
            ThreadPoolExecutor(1) as hasher,
            tqdm(total=sum(p.stat().st_size for p in files.values()), unit="B", unit_scale=True, desc="corpus") as bar,
        ):
            digests = [hasher.submit(_digest, path) for path in files.values()]
            for name, path in files.items():
                read_parts = _parquet_parts if _suffix(path) == ".parquet" else _jsonl_parts
                position = 0
                for part in read_parts(name, path, frozenset(subsets)):
                    kept.update(_count(part.kept["subset_name"]))
                    left_out.update(part.left_out)
                    for fault in part.bad:
                        bad[fault.reason] += 1
                        bad_wanted += fault.subset in subsets
                        bad_file.write(
                            orjson.dumps({"file": name, **fault._asdict()}, option=orjson.OPT_APPEND_NEWLINE)
                        )
                    write(part.kept, name)
                    bar.update(part.position - position)
                    position = part.position
            fingerprint = _fingerprint(files, digests)
        whole_bad.replace(bad_rows)
        _check_outcome(corpus, subsets, kept, left_out, bad, bad_wanted, bad_rows)
        whole.replace(destination)
    finally:
        whole.unlink(missing_ok=True)
        whole_bad.unlink(missing_ok=True)
    return CorpusSummary(
        corpus=corpus,
        files=tuple(files),
        rows_read=kept.total() + left_out.total() + bad.total(),
        kept={name: kept[name] for name in subsets},
        left_out=dict(left_out.most_common()),
        bad=dict(bad.most_common()),
        fingerprint=fingerprint,
    )


def prepare(config: Config) -> CorpusSummary:
    """Select the six subsets of a run's corpus into its `rows` file, and keep the summary beside it.

    The demo's corpus is generated first. Raises CorpusError if the corpus cannot be used.
    """
    source = config.corpus.source
    if source == "demo":
        path = config.paths.artifacts / "corpus" / "demo" / "corpus.jsonl.gz"
        demo_corpus.write(path)
        source = str(path)
    elif not Path(source).is_absolute() and (ROOT / source).exists():
        # A notebook's working directory is not the one that `make` was called in.
        source = str(ROOT / source)
    summary = select(source, config.paths.rows)
    write_json(config.paths.corpus_summary, summary.to_dict())
    return summary


def shortages(summary: CorpusSummary, needed_per_subset: int) -> list[str]:
    """A sentence for every subset that has fewer rows than `needed_per_subset`, in the order of the subsets."""
    sentences = []
    for name, rows in summary.kept.items():
        if rows == 0 and needed_per_subset > 0:
            sentences.append(f"{name} has no rows where {needed_per_subset:,} were asked for.")
        elif rows < needed_per_subset:
            used = "it is used" if rows == 1 else f"all {rows:,} are used"
            sentences.append(f"{name} has {_rows(rows)} where {needed_per_subset:,} were asked for; {used}.")
    return sentences


def read(
    destination: Path, rows: np.ndarray | None = None, columns: Sequence[str] = ("row", "source", *COLUMNS)
) -> pd.DataFrame:
    """The rows at the given positions (from 0) of a file that `select` wrote, in the order asked for.

    A position may come more than once. Without `rows`, all of them. One row group is in memory at a time besides
    the result. Raises CorpusError for a missing or damaged file, an unknown column and a position out of range.
    """
    destination = Path(destination)
    try:
        with pq.ParquetFile(destination, pre_buffer=False) as file:
            for name in columns:
                if name not in file.schema_arrow.names:
                    known = ", ".join(file.schema_arrow.names)
                    raise CorpusError(f"{destination} has no column {name!r}; its columns are {known}.")
            if rows is None:
                return file.read(columns=list(columns)).to_pandas()
            return _take(file, np.asarray(rows), list(columns), destination).to_pandas()
    except FileNotFoundError:
        raise CorpusError(f"{destination} does not exist; select the corpus first.") from None
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{destination} cannot be read ({error}); select the corpus again.") from error


def _take(file: pq.ParquetFile, rows: np.ndarray, columns: list[str], destination: Path) -> pa.Table:
    total = file.metadata.num_rows
    if rows.size == 0:
        return pa.table({name: pa.array([], type=file.schema_arrow.field(name).type) for name in columns})
    if rows.dtype.kind not in "iu":
        raise CorpusError(f"positions must be whole numbers, and these are {rows.dtype}; use np.flatnonzero on a mask.")
    if rows.min() < 0 or rows.max() >= total:
        wrong = rows.min() if rows.min() < 0 else rows.max()
        raise CorpusError(f"{destination} has {_rows(total)}, and position {wrong} is not among 0 to {total - 1}.")
    distinct, places = np.unique(rows, return_inverse=True)
    groups = range(file.metadata.num_row_groups)
    ends = np.cumsum([file.metadata.row_group(group).num_rows for group in groups])
    pieces = []
    for group in groups:
        start = ends[group - 1] if group else 0
        wanted = distinct[np.searchsorted(distinct, start) : np.searchsorted(distinct, ends[group])] - start
        if wanted.size:
            pieces.append(file.read_row_group(group, columns=columns).take(pa.array(wanted)))
    return pa.concat_tables(pieces).take(pa.array(places.ravel()))


def _check_subsets(subsets: Sequence[str]) -> None:
    for name in subsets:
        if name not in SUBSETS:
            raise CorpusError(
                f"{name!r} is not a subset.{_did_you_mean(name, SUBSETS)} The subsets are {_list(SUBSETS)}."
            )
    if not subsets:
        raise CorpusError(f"no subset is asked for; name at least one of {_list(SUBSETS)}.")


def _find_files(corpus: str) -> dict[str, Path]:
    """The readable files of the corpus, by name relative to it, in order of name."""
    path = Path(corpus).expanduser()
    try:
        if path.is_file():
            files = {path.name: path}
        elif path.is_dir():
            files = _files_below(path)
        elif glob.has_magic(corpus):
            files = _glob_files(str(path))
        elif re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", corpus) and not path.parent.exists():
            files = _files_below(_download(corpus))
        else:
            raise CorpusError(f"no file or folder is named {corpus!r}.{_nearest_paths(path)} Check CORPUS.")
    except PermissionError as error:
        raise _denied(error.filename or corpus) from None
    readable = {name: files[name] for name in sorted(files) if _suffix(files[name])}
    if not readable:
        kinds = sorted({file.suffix or file.name for file in files.values()})
        found = f"it has only {_list(kinds[:10])}" if kinds else "it has no files at all"
        raise CorpusError(
            f"{corpus!r} has no file that can be read as a corpus: {found}. Give {_list(SUFFIXES)} files."
        )
    return readable


def _files_below(folder: Path) -> dict[str, Path]:
    def refuse(error: OSError) -> None:
        raise error

    files = {}
    for parent, folders, names in os.walk(folder, onerror=refuse):
        # Dot-folders and dot-files belong to tools (a hub's cache, a desktop's previews), not to the corpus.
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                path = Path(parent, name)
                files[path.relative_to(folder).as_posix()] = path
    return files


def _glob_files(pattern: str) -> dict[str, Path]:
    matches = [Path(match) for match in glob.glob(pattern, recursive=True)]  # noqa: PTH207
    files = [path for path in matches if path.is_file()]
    if not files:
        only = " but folders" if matches else ""
        raise CorpusError(
            f"the pattern {pattern!r} matches nothing{only}.{_nearest_paths(Path(pattern))} Check CORPUS."
        )
    root = Path(os.path.commonpath([path.parent for path in files]))
    return {path.relative_to(root).as_posix(): path for path in files}


def _download(name: str) -> Path:
    """The folder of the hub's data set; only its parquet and JSON-lines files are fetched."""
    import httpx
    from huggingface_hub import constants, snapshot_download

    patterns = [f"*{suffix}" for suffix in SUFFIXES]
    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=patterns))
    except (OSError, ValueError, httpx.HTTPError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        offline = " HF_HUB_OFFLINE is set, and only what was downloaded before is at hand." * constants.HF_HUB_OFFLINE
        raise CorpusError(
            f"no file or folder is named {name!r}, and the data set of this name could not be fetched from "
            f"{constants.ENDPOINT} ({reason}).{offline} Check the name, the network and HF_TOKEN, or give CORPUS a "
            "file or folder."
        ) from error


def _check_apart(corpus: str, files: dict[str, Path], destination: Path, bad_rows: Path) -> None:
    written = {destination.resolve(), bad_rows.resolve()}
    root = Path(corpus).expanduser().resolve()
    inside = root.is_dir() and root in destination.resolve().parents
    if inside or any(path.resolve() in written for path in files.values()):
        raise CorpusError(f"{destination} lies within the corpus {corpus!r}, which would then read its own selection.")


def _check_file(name: str, path: Path) -> None:
    """Refuse, before anything is written, a file that cannot be opened or lacks a column."""
    try:
        if _suffix(path) == ".parquet":
            with path.open("rb") as raw, pq.ParquetFile(raw) as file:
                schema = file.schema_arrow
            _check_columns(name, schema.names)
            for column in COLUMNS:
                kind = schema.field(column).type
                kind = kind.value_type if pa.types.is_dictionary(kind) else kind
                if kind not in (pa.string(), pa.large_string(), pa.string_view(), pa.null()):
                    raise CorpusError(f"{name}: column {column!r} is {kind}, not text. Write it as strings.")
        else:
            _check_jsonl(name, path)
    except PermissionError:
        raise _denied(path) from None
    except _DAMAGE as error:
        raise CorpusError(_damaged(name, error, "it ends within its first lines")) from error
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(_damaged(name, error, "not even its footer could be read")) from error


def _check_jsonl(name: str, path: Path) -> None:
    found: dict[str, None] = {}
    with _open_lines(path) as (stream, _):
        for number, line in zip(range(1, 101), _lines(name, stream), strict=False):
            if number == 1 and line.lstrip().startswith(b"["):
                raise CorpusError(f"{name} is one JSON array, not a row a line. Convert it: jq -c '.[]' {path.name}")
            with contextlib.suppress(orjson.JSONDecodeError):
                row = orjson.loads(line)
                if isinstance(row, dict):
                    found.update(dict.fromkeys(row))
    if found:
        _check_columns(name, list(found))


def _check_columns(name: str, found: Sequence[str]) -> None:
    for column in COLUMNS:
        if column not in found:
            raise CorpusError(
                f"{name} has no column {column!r}.{_did_you_mean(column, found)} Its columns are {_list(found)}. "
                f"Rename them to {_list(COLUMNS)}."
            )


def _check_outcome(
    corpus: str,
    subsets: Sequence[str],
    kept: Counter[str],
    left_out: Counter[str],
    bad: Counter[str],
    bad_wanted: int,
    bad_rows: Path,
) -> None:
    if not kept and not left_out and not bad:
        raise CorpusError(f"{corpus!r} has no rows. Check that its files are whole.")
    if not kept and not bad_wanted and left_out:
        found = _list([f"{name} ({_rows(rows)})" for name, rows in left_out.most_common(10)])
        aside = f" {_rows(bad.total())} were set aside in {bad_rows}." if bad else ""
        raise CorpusError(
            f"{corpus!r} has no rows of {_list(subsets)}; its subsets are {found}.{aside} "
            "Check CORPUS, or rename the values of subset_name."
        )
    if 2 * bad.total() > kept.total() + bad.total():
        reason, rows = bad.most_common(1)[0]
        raise CorpusError(
            f"{bad.total():,} of the {kept.total() + bad.total():,} rows to keep from {corpus!r} are bad, more than "
            f"half; most often ({_rows(rows)}): {reason}. Every one is listed in {bad_rows}; mend the corpus first."
        )


@contextlib.contextmanager
def _writer(path: Path) -> Iterator[Any]:
    """Yield `write(batch, source)`, which gathers batches into row groups and writes them on a thread of its own."""
    gathered: list[pa.RecordBatch] = []
    pending: Future[None] | None = None
    # The file is an intermediate that is read again at once: compressing it would cost as much time as the reading.
    with (
        pq.ParquetWriter(path, _SCHEMA, compression="none", use_dictionary=_REPETITIVE, write_statistics=False) as file,
        ThreadPoolExecutor(1) as thread,
    ):

        def flush() -> None:
            nonlocal pending
            if pending:
                pending.result()
            if gathered:
                table = pa.Table.from_batches(gathered, _SCHEMA)
                gathered.clear()
                pending = thread.submit(file.write_table, table, len(table))

        def write(batch: pa.RecordBatch, source: str) -> None:
            if len(batch):
                gathered.append(batch.add_column(1, "source", pa.repeat(source, len(batch))))
            rows = sum(len(part) for part in gathered)
            if rows >= _GROUP_ROWS or sum(part.nbytes for part in gathered) >= _GROUP_BYTES:
                flush()

        yield write
        flush()
        if pending:
            pending.result()


def _parquet_parts(name: str, path: Path, wanted: frozenset[str]) -> Iterator[_Part]:
    for batch, position in _parquet_batches(name, path):
        yield _sort_out(batch, wanted, position)


def _parquet_batches(name: str, path: Path) -> Iterator[tuple[pa.RecordBatch, int]]:
    """The rows with their numbers from 1, and how far into the file each batch reaches, in bytes."""
    size, done = path.stat().st_size, 0
    try:
        # buffer_size streams the column chunks: without it a row group's chunks are loaded whole.
        with pq.ParquetFile(
            path,
            pre_buffer=False,
            buffer_size=1 << 20,
            read_dictionary=_REPETITIVE[1:],
            page_checksum_verification=True,
        ) as file:
            total = file.metadata.num_rows
            groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
            heaviest = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
            batch_rows = min(_BATCH_ROWS, max(64, _BATCH_BYTES // max(1, heaviest)))
            for batch in _one_ahead(file.iter_batches(batch_rows, columns=list(COLUMNS))):
                texts = [_plain(batch[column]) for column in COLUMNS]
                numbers = pa.array(np.arange(done + 1, done + 1 + len(batch)))
                done += len(batch)
                yield pa.record_batch([numbers, *texts], names=["row", *COLUMNS]), size * done // total
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(_damaged(name, error, f"it could be read up to row {done:,}")) from error


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


def _jsonl_parts(name: str, path: Path, wanted: frozenset[str]) -> Iterator[_Part]:
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

    with _open_lines(path) as (stream, raw_position):
        try:
            for number, line in enumerate(_lines(name, stream), 1):
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
        except (*_DAMAGE, OSError) as error:
            raise CorpusError(_damaged(name, error, f"it could be read up to line {number:,}")) from error


def _sort_out(batch: pa.RecordBatch, wanted: frozenset[str], position: int) -> _Part:
    """Keep the wanted rows that are sound. `batch` has `row` and the seven columns."""
    bad: list[_BadRow] = []
    batch = _drop_broken_text(batch, "subset_name", bad)
    batch = _drop(batch, pc.is_null(batch["subset_name"]), "subset_name is null", "subset_name", bad)
    left_out = Counter({name: rows for name, rows in _count(batch["subset_name"]).items() if name not in wanted})
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
    # The standard library lets lone surrogates pass, which is how they are told from a syntax error here.
    try:
        json.dumps(json.loads(line), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "lone surrogate"
    except (ValueError, RecursionError):
        return "not valid JSON"
    return "not valid JSON"


def _row_fault(number: int, row: Any) -> _BadRow | None:
    """What is wrong with the form of a parsed row, if anything. Nulls pass: they are looked at in the batch."""
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


@contextlib.contextmanager
def _open_lines(path: Path) -> Iterator[tuple[Any, Callable[[], int]]]:
    """The bytes of a file, unpacked if it is gzipped, and a call that tells how many bytes of the file are read.

    The first bytes tell whether it is gzipped, since names are often wrong.
    """
    with path.open("rb", buffering=1 << 20) as raw:
        gzipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if gzipped:
            with gzip.GzipFile(fileobj=raw) as packed, io.BufferedReader(packed, 1 << 20) as unpacked:
                yield unpacked, raw.tell
        else:
            yield raw, raw.tell


def _lines(name: str, stream: Any) -> Iterator[bytes]:
    """The lines of a file, without its byte-order mark, refusing one that would fill the memory."""
    for number, line in enumerate(iter(lambda: stream.readline(_LINE_BYTES), b""), 1):
        if len(line) >= _LINE_BYTES:
            raise CorpusError(f"{name}: line {number:,} is over {_LINE_BYTES >> 20} MB. Is it one JSON row a line?")
        yield line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fingerprint(files: dict[str, Path], digests: Sequence[Future[str]]) -> str:
    whole = hashlib.sha256()
    for (name, path), digest in zip(files.items(), digests, strict=True):
        whole.update(f"{name}\0{path.stat().st_size}\0{digest.result()}\n".encode())
    return whole.hexdigest()


def _count(column: pa.Array) -> dict[str, int]:
    return {pair["values"]: pair["counts"] for pair in pc.value_counts(column).to_pylist()}


def _suffix(path: Path) -> str | None:
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)


def _clip(value: bytes | None) -> str | None:
    if value is None:
        return None
    text = value[: 4 * _CLIP].decode("utf-8", "backslashreplace").rstrip("\r\n")
    return text if len(text) <= _CLIP else f"{text[:_CLIP]}…"


def _damaged(name: str, error: Exception, how_far: str) -> str:
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return f"{name} is damaged or cut short: {how_far} ({reason}). Get the file again."


def _denied(path: Any) -> CorpusError:
    return CorpusError(f"{path} may not be read (permission denied). Give yourself the right to read it: chmod u+r")


def _nearest_paths(path: Path) -> str:
    """Names beside the first part of the path that does not exist."""
    missing = next(part for part in (*reversed(path.parents), path) if not part.exists())
    names = sorted(entry.name for entry in missing.parent.iterdir() if not entry.name.startswith("."))
    near = difflib.get_close_matches(missing.name, names, n=3, cutoff=0.5) or names[:5]
    return f" {missing.parent} has {_list(near)}." if near else f" {missing.parent} is empty."


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" Is it {near[0]!r}?" if near else ""


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"
