"""The files of a corpus: found by name, glob, folder or hub id, and opened with a clear message for what is wrong."""

import contextlib
import difflib
import glob
import gzip
import io
import os
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from lib import paths
from lib.config import nearest

SUBSETS = ("indo_puisi", "wikihow", "wikipedia_id", "safety_prompt", "identity_prompt", "dolly")
COLUMNS = ("dataset_name", "subset_name", "prompt_id", "template_name", "dataset_key", "input", "output")
SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".json", ".json.gz")
_PATTERNS = [f"*{suffix}" for suffix in SUFFIXES]
_LINE_BYTES = 64 << 20
DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile)


class CorpusError(ValueError):
    """The corpus cannot be used; the message says what is wrong, where, and what to do about it."""


class Files(NamedTuple):
    """The files of a corpus by their names relative to it.

    For a data set on the hub also the commit, and the rows of each file not fetched, which has none of the subsets.
    """

    files: dict[str, Path]
    commit: str | None = None
    not_fetched: dict[str, int] = {}  # noqa: RUF012


def find_files(corpus: str, subsets: Collection[str] = SUBSETS) -> Files:
    """The readable files of the corpus, in order of name."""
    path = paths.expanded(corpus)
    found = Files({})
    try:
        if path.is_file():
            files = {path.name: path}
        elif path.is_dir():
            files = _files_below(path)
        elif glob.has_magic(corpus):
            files = _glob_files(str(path))
        elif is_of_the_hub(corpus):
            found = _from_hub(corpus, subsets)
            files = found.files
        else:
            raise CorpusError(f"no file or folder is named {corpus!r}.{_nearest_paths(path)} Check CORPUS.")
    except PermissionError as error:
        raise _denied(error.filename or corpus) from None
    readable = {name: files[name] for name in sorted(files) if suffix(files[name])}
    if not readable:
        kinds = sorted({file.suffix or file.name for file in files.values()})
        there = f"it has only {listed(kinds[:10])}" if kinds else "it has no files at all"
        raise CorpusError(
            f"{corpus!r} has no file that can be read as a corpus: {there}. Give {listed(SUFFIXES)} files."
        )
    return found._replace(files=readable)


def is_of_the_hub(corpus: str) -> bool:
    """Whether a corpus is a data set on the hub: named owner/name, and nothing on this machine has that name."""
    path = paths.expanded(corpus)
    if path.exists() or Path(path.parts[0]).exists():
        return False
    # Slow to import, and not needed for a local file or folder.
    from lib import hub

    return hub.is_name(corpus)


def bytes_to_fetch(name: str, subsets: Collection[str] = SUBSETS) -> int:
    """How many bytes of a corpus on the hub are still to be fetched: at most, until its files' footers have been seen.

    Raises:
        HubError: if the hub cannot be asked.
    """
    from lib import hub

    return hub.dataset_to_fetch(name, _PATTERNS, _asked(subsets))


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


def _asked(subsets: Collection[str]) -> str:
    return " ".join(sorted(subsets))


def _from_hub(name: str, subsets: Collection[str]) -> Files:
    from lib import hub

    try:
        files, not_fetched = hub.dataset(
            name, _PATTERNS, _asked(subsets), lambda parquet: any(row_groups_with(subsets, parquet))
        )
        return Files(files, hub.commit("dataset", name), not_fetched)
    except hub.HubError as error:
        raise CorpusError(
            f"no file or folder is named {name!r}, and {error}; or give CORPUS a file or folder."
        ) from error


def row_groups_with(subsets: Collection[str], file: pq.ParquetFile) -> list[bool]:
    """For each row group of a parquet file, whether it can hold a row of one of the subsets, or a bad one.

    Decided by the footer's smallest and largest `subset_name`, where it has them.
    """
    column = file.schema_arrow.get_field_index("subset_name")
    can = []
    for group in range(file.metadata.num_row_groups):
        found = file.metadata.row_group(group).column(column).statistics if column >= 0 else None
        if found is None or not found.has_min_max or found.null_count or found.physical_type != "BYTE_ARRAY":
            can.append(True)
        else:
            # As bytes, since bad rows may hold invalid text.
            can.append(any(found.min_raw <= name.encode() <= found.max_raw for name in subsets))
    return can


def check_file(name: str, path: Path) -> None:
    """Refuse, before anything is written, a file that cannot be opened or lacks a column."""
    try:
        if suffix(path) == ".parquet":
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
    except DAMAGE as error:
        raise CorpusError(damaged(name, error, "it ends within its first lines")) from error
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(damaged(name, error, "not even its footer could be read")) from error


def _check_jsonl(name: str, path: Path) -> None:
    found: dict[str, None] = {}
    with open_lines(path) as (stream, _):
        for number, line in zip(range(1, 101), lines(name, stream), strict=False):
            if number == 1 and line.lstrip().startswith(b"["):
                raise CorpusError(
                    f"{name} is one JSON array, not one row per line. Convert it: jq -c '.[]' {path.name}"
                )
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
                f"{name} has no column {column!r}{nearest(column, found)}; its columns are {listed(found)}. "
                f"Rename them to {listed(COLUMNS)}."
            )


@contextlib.contextmanager
def open_lines(path: Path) -> Iterator[tuple[Any, Callable[[], int]]]:
    """The bytes of a file, unpacked if it is gzipped, and a function that returns how many bytes of the file are read.

    The first bytes show whether it is gzipped, since names are often wrong.
    """
    with path.open("rb", buffering=1 << 20) as raw:
        gzipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if gzipped:
            with gzip.GzipFile(fileobj=raw) as packed, io.BufferedReader(packed, 1 << 20) as unpacked:
                yield unpacked, raw.tell
        else:
            yield raw, raw.tell


def lines(name: str, stream: Any) -> Iterator[bytes]:
    """The lines of a file, without its byte-order mark, refusing one that would fill the memory."""
    for number, line in enumerate(iter(lambda: stream.readline(_LINE_BYTES), b""), 1):
        if len(line) >= _LINE_BYTES:
            raise CorpusError(f"{name}: line {number:,} is over {_LINE_BYTES >> 20} MB. Is it one JSON row per line?")
        yield line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def suffix(path: Path) -> str | None:
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)


def damaged(name: str, error: Exception, how_far: str) -> str:
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return f"{name} is damaged or cut short: {how_far} ({reason}). Get the file again."


def _denied(path: Any) -> CorpusError:
    return CorpusError(f"{path} may not be read (permission denied). Give yourself the right to read it: chmod u+r")


def _nearest_paths(path: Path) -> str:
    """Names beside the first part of the path that does not exist."""
    missing = next(part for part in (*reversed(path.parents), path) if not part.exists())
    names = sorted(entry.name for entry in missing.parent.iterdir() if not entry.name.startswith("."))
    near = difflib.get_close_matches(missing.name, names, n=3, cutoff=0.5) or names[:5]
    return f" {missing.parent} has {listed(near)}." if near else f" {missing.parent} is empty."


def listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def row_count(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"
