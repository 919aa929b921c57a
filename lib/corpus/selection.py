"""The corpus: rows in the schema of the Cendol Collection, of which the wanted subsets are kept in one parquet file."""

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from tqdm import tqdm

from lib import paths
from lib.config import Config, nearest
from lib.corpus import sources
from lib.corpus.files import COLUMNS, SUBSETS, CorpusError, find_files, listed, row_count
from lib.corpus.formats import CENDOL, Format, NoRowsError, recognise
from lib.corpus.rows import MOST_SUBSETS, REPETITIVE, SCHEMA, TURNS, counts, parts
from lib.demo import generator
from lib.storage import write_json

BAD_ROWS = "bad_rows.jsonl"
_GROUP_ROWS = 50_000
_GROUP_BYTES = 128 << 20


@dataclass(frozen=True)
class CorpusSummary:
    """What `select` read and what became of it: rows_read = kept + left_out + bad, each summed.

    `files` are names relative to the corpus; `formats` has the rows of each format that files were recognised as;
    `set_aside` says of files that are not among them why; `kept` has the subsets, of Cendol's all that were asked for,
    0 where one has no rows; `left_out` counts the rows of other subsets, whose text is not looked at; `bad` counts the
    rows set aside, by reason; `commit` is that of a data set on the hub, and `not_fetched` has the rows of those of its
    files that hold none of the subsets, which are not counted elsewhere; `fingerprint` is a SHA-256 over the names and
    the bytes of all files that were read; `sources` describes the public repositories of the corpus `open`, each with
    its rows.
    """

    corpus: str
    files: tuple[str, ...]
    rows_read: int
    kept: dict[str, int]
    left_out: dict[str, int]
    bad: dict[str, int]
    fingerprint: str
    formats: dict[str, int] = field(default_factory=dict)
    set_aside: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    not_fetched: dict[str, int] = field(default_factory=dict)
    sources: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values that JSON can hold."""
        return asdict(self) | {"files": list(self.files)}

    def to_json(self) -> str:
        """The fields as indented JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2)


def select(corpus: str, destination: Path, subsets: Sequence[str] = SUBSETS, subset_column: str = "") -> CorpusSummary:
    """Write the rows of a corpus to the parquet file `destination`, in its order.

    `corpus` is a file, a glob, a folder, or the name of a data set on the hub (`lib.hub`), in a format that
    `lib.corpus.formats` recognises. The file written has `row` (from 1, within its file: the line of a JSON-lines
    file), `source` (the name of that file), the seven `COLUMNS`, null where the corpus has no such column, and `turns`
    where rows may be conversations (`lib.corpus.rows.TURNS`). It appears only when it is whole. Rows that cannot be
    used go to `bad_rows.jsonl` beside it, with their reason; that file is written even if it stays empty. Memory does
    not grow with the corpus.

    Args:
        subsets: of Cendol's, those that are kept where files have Cendol's columns and no `subset_column` is named.
        subset_column: the column that names each row's subset, all of which are kept; or `none`.

    Raises:
        CorpusError: if the corpus cannot be used.
    """
    _check_subsets(subsets)
    destination = Path(destination)
    bad_rows = destination.with_name(BAD_ROWS)
    found = find_files(corpus, None if subset_column else subsets)
    _check_apart(corpus, found.files, destination, bad_rows)
    formats, set_aside = recognised(found.files, subset_column)
    set_aside = dict(sorted((found.set_aside | set_aside).items()))
    files = {name: found.files[name] for name in formats}
    wanted_of = {name: wanted(form, subsets, subset_column) for name, form in formats.items()}
    turns = [] if all(form.shape == CENDOL for form in formats.values()) else [TURNS]

    destination.parent.mkdir(parents=True, exist_ok=True)
    whole = destination.with_name(f".{destination.name}.{os.getpid()}.partial")
    whole_bad = destination.with_name(f".{BAD_ROWS}.{os.getpid()}.partial")
    kept: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    read = Counter(dict.fromkeys(map(str, formats.values()), 0))
    bad_wanted = 0
    try:
        with (
            _writer(whole, pa.schema([*SCHEMA, *turns])) as write,
            whole_bad.open("wb") as bad_file,
            ThreadPoolExecutor(1) as hasher,
            tqdm(total=sum(p.stat().st_size for p in files.values()), unit="B", unit_scale=True, desc="corpus") as bar,
        ):
            digests = [hasher.submit(_digest, path) for path in files.values()]
            for name, path in files.items():
                position = 0
                for part in parts(name, path, formats[name], wanted_of[name]):
                    kept.update(counts(part.kept["subset_name"]))
                    _check_count(kept, subset_column)
                    left_out.update(part.left_out)
                    for fault in part.bad:
                        bad[fault.reason] += 1
                        bad_wanted += wanted_of[name] is None or fault.subset in subsets
                        bad_file.write(
                            orjson.dumps({"file": name, **fault._asdict()}, option=orjson.OPT_APPEND_NEWLINE)
                        )
                    read[str(formats[name])] += len(part.kept) + part.left_out.total() + len(part.bad)
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
    asked = subsets if any(wanted_of.values()) else ()
    return CorpusSummary(
        corpus=corpus,
        files=tuple(files),
        rows_read=read.total(),
        kept={name: kept[name] for name in dict.fromkeys([*asked, *sorted(kept)])},
        left_out=dict(left_out.most_common()),
        bad=dict(bad.most_common()),
        fingerprint=fingerprint,
        formats=dict(read.most_common()),
        set_aside=set_aside,
        commit=found.commit,
        not_fetched=found.not_fetched,
    )


def recognised(files: Mapping[str, Path], subset_column: str = "") -> tuple[dict[str, Format], dict[str, str]]:
    """What each file is, and why others are set aside: a document, a table or an archive beside the rows.

    Raises:
        CorpusError: if a file cannot be used, or none has rows.
    """
    formats, set_aside = {}, {}
    for name, path in files.items():
        try:
            formats[name] = recognise(name, path, subset_column)
        except NoRowsError as error:
            set_aside[name] = str(error)
    if not formats:
        # Most likely to be what was meant.
        raise CorpusError(set_aside[max(files, key=lambda name: files[name].stat().st_size)])
    return formats, set_aside


def wanted(form: Format, subsets: Collection[str], subset_column: str) -> frozenset[str] | None:
    """The subsets that are wanted of a file: some of Cendol's where it has Cendol's columns, else all (None)."""
    return frozenset(subsets) if form.shape == CENDOL and not subset_column else None


def prepare(config: Config) -> CorpusSummary:
    """Select the rows of a run's corpus into its `rows` file, and keep the summary beside it.

    The demo's corpus is generated first, and that of `open` fetched. Raises CorpusError if the corpus cannot be used.
    """
    source, rows = config.corpus.source, config.paths.rows
    rows.parent.mkdir(parents=True, exist_ok=True)
    # Samplings of several iterations may run side by side.
    with FileLock(rows.parent / ".lock"):
        if source == "demo":
            path = rows.parent / "demo" / "corpus.jsonl.gz"
            generator.write(path)
            source = str(path)
        elif source == "open":
            source = str(sources.write())
        summary = select(located(source), rows, subset_column=config.corpus.subsets)
        if config.corpus.source == "open":
            summary = replace(summary, sources=sources.described())
        write_json(config.paths.corpus_summary, summary.to_dict())
    return summary


def located(source: str) -> str:
    """A corpus that is named relative to the repository, by its full path; any other as it is."""
    # A notebook's working directory is not the one that `make` was called in.
    inside = not Path(source).is_absolute() and (paths.ROOT / source).exists()
    return str(paths.ROOT / source) if inside else source


def read(
    destination: Path, rows: np.ndarray | None = None, columns: Sequence[str] = ("row", "source", *COLUMNS)
) -> pd.DataFrame:
    """The rows at the given positions (from 0) of a file that `select` wrote, in the order asked for.

    A position may be repeated. Without `rows`, all of them. `turns` is left out where the corpus has none. One row
    group is in memory at a time besides the result. Raises CorpusError for a missing or damaged file, an unknown column
    and a position out of range.
    """
    destination = Path(destination)
    try:
        with pq.ParquetFile(destination, pre_buffer=False) as file:
            if TURNS.name not in file.schema_arrow.names:
                columns = [name for name in columns if name != TURNS.name]
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
        raise CorpusError(f"{destination} has {row_count(total)}, and position {wrong} is not among 0 to {total - 1}.")
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
            raise CorpusError(f"{name!r} is not a subset{nearest(name, SUBSETS)}; the subsets are {listed(SUBSETS)}.")
    if not subsets:
        raise CorpusError(f"no subset is asked for; name at least one of {listed(SUBSETS)}.")


def _check_count(kept: Counter[str], subset_column: str) -> None:
    if len(kept) > MOST_SUBSETS:
        some = listed(sorted(kept)[:5])
        raise CorpusError(
            f"SUBSETS={subset_column!r} names over {MOST_SUBSETS} subsets ({some} …). Name a column whose values many "
            "rows share, or none."
        )


def _check_apart(corpus: str, files: dict[str, Path], destination: Path, bad_rows: Path) -> None:
    written = {destination.resolve(), bad_rows.resolve()}
    root = Path(corpus).expanduser().resolve()
    inside = root.is_dir() and root in destination.resolve().parents
    if inside or any(path.resolve() in written for path in files.values()):
        raise CorpusError(f"{destination} is inside the corpus {corpus!r}, which would then read its own selection.")


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
        found = listed([f"{name} ({row_count(rows)})" for name, rows in left_out.most_common(10)])
        aside = f" {row_count(bad.total())} were set aside in {bad_rows}." if bad else ""
        raise CorpusError(
            f"{corpus!r} has no rows of {listed(subsets)}; its subsets are {found}.{aside} "
            "Check CORPUS, or rename the values of subset_name."
        )
    if 2 * bad.total() > kept.total() + bad.total():
        reason, rows = bad.most_common(1)[0]
        raise CorpusError(
            f"{bad.total():,} of the {kept.total() + bad.total():,} rows to keep from {corpus!r} are bad, more than "
            f"half; most often ({row_count(rows)}): {reason}. Every one is listed in {bad_rows}; fix the corpus first."
        )


@contextlib.contextmanager
def _writer(path: Path, schema: pa.Schema) -> Iterator[Any]:
    """Yield `write(batch, source)`, which gathers batches into row groups and writes them on a thread of its own."""
    gathered: list[pa.RecordBatch] = []
    pending: Future[None] | None = None
    # The file is an intermediate that is read again at once: compressing it would cost as much time as the reading.
    with (
        pq.ParquetWriter(path, schema, compression="none", use_dictionary=REPETITIVE, write_statistics=False) as file,
        ThreadPoolExecutor(1) as thread,
    ):

        def flush() -> None:
            nonlocal pending
            if pending:
                pending.result()
            if gathered:
                table = pa.Table.from_batches(gathered, schema)
                gathered.clear()
                pending = thread.submit(file.write_table, table, len(table))

        def write(batch: pa.RecordBatch, source: str) -> None:
            if len(batch):
                batch = batch.add_column(1, "source", pa.repeat(source, len(batch)))
                if len(batch.schema) < len(schema):
                    # A file in Cendol's columns beside others.
                    batch = batch.append_column(TURNS, pa.nulls(len(batch), TURNS.type))
                gathered.append(batch)
            rows = sum(len(part) for part in gathered)
            if rows >= _GROUP_ROWS or sum(part.nbytes for part in gathered) >= _GROUP_BYTES:
                flush()

        yield write
        flush()
        if pending:
            pending.result()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fingerprint(files: dict[str, Path], digests: Sequence[Future[str]]) -> str:
    whole = hashlib.sha256()
    for (name, path), digest in zip(files.items(), digests, strict=True):
        whole.update(f"{name}\0{path.stat().st_size}\0{digest.result()}\n".encode())
    return whole.hexdigest()
