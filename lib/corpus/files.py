"""The files of a corpus: found by name, glob, folder or hub id, and opened with a clear message for what is wrong."""

import contextlib
import difflib
import glob
import gzip
import io
import os
import stat
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

SUBSETS = ("indo_puisi", "wikihow", "wikipedia_id", "safety_prompt", "identity_prompt", "dolly")
COLUMNS = ("dataset_name", "subset_name", "prompt_id", "template_name", "dataset_key", "input", "output")
#: Which files of a folder belong to a corpus. What is in them decides how they are read (`lib.corpus.formats`).
_TEXTS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
SUFFIXES = (".parquet", *(f"{text}{packed}" for text in _TEXTS for packed in ("", ".gz", ".zst")))
READABLE = f"parquet, or {', '.join(_TEXTS[:-1])} or {_TEXTS[-1]}, the texts also packed as .gz or .zst"
_PATTERNS = [f"*{suffix}" for suffix in SUFFIXES]
#: What people also keep rows in: looked at, so that it can be said what would do.
_OTHERS = (".xlsx", ".xls", ".ods", ".arrow", ".feather", ".zip", ".bz2", ".xz")
LINE_BYTES = 64 << 20
BUFFER = 1 << 20
DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, UnicodeError, pa.ArrowException, OSError)


class CorpusError(ValueError):
    """The corpus cannot be used; the message says what is wrong, where, and what to do about it."""


class Files(NamedTuple):
    """The files of a corpus by their names relative to it, and why others that look like its own are not among them.

    For a data set on the hub also the commit, and the rows of each file not fetched, which has none of the subsets.
    """

    files: dict[str, Path]
    set_aside: dict[str, str] = {}  # noqa: RUF012
    commit: str | None = None
    not_fetched: dict[str, int] = {}  # noqa: RUF012


def find_files(corpus: str, subsets: Collection[str] | None = SUBSETS) -> Files:
    """The readable files of the corpus, in order of name.

    Args:
        subsets: those that are wanted, where the corpus is in Cendol's columns; None for all.
    """
    path = Path(corpus).expanduser()
    try:
        if path.is_file():
            # What was named is read, whatever its name.
            return Files({path.name: path})
        if path.is_dir():
            found = _files_below(path)
        elif path.exists():
            raise CorpusError(
                f"{corpus!r} is {_kind(path)}, and a run reads its corpus more than once. Write what it gives to a "
                "file, and name that."
            )
        elif glob.has_magic(corpus):
            found = _glob_files(str(path))
        elif is_of_the_hub(corpus):
            found = _from_hub(corpus, subsets)
        else:
            raise CorpusError(f"no file or folder is named {corpus!r}.{_nearest_paths(path)} Check CORPUS.")
    except PermissionError as error:
        raise denied(error.filename or corpus) from None
    except OSError as error:
        raise CorpusError(f"{corpus!r} cannot be looked at ({error.strerror}). Check CORPUS.") from None
    readable = {name: found.files[name] for name in sorted(found.files) if _is_readable(name)}
    if not readable:
        kinds = sorted({file.suffix or file.name for file in found.files.values()})
        there = [*kinds[:10], *list(found.set_aside.values())[:10]]
        only = f"it has only {listed(there)}" if there else "it has no files at all"
        raise CorpusError(f"{corpus!r} has no file that can be read as a corpus: {only}. Give files in {READABLE}.")
    return found._replace(files=readable)


def is_of_the_hub(corpus: str) -> bool:
    """Whether a corpus is a data set on the hub: named owner/name, and nothing on this machine has that name."""
    path = Path(corpus).expanduser()
    if path.exists() or Path(path.parts[0]).exists():
        return False
    # Slow to import, and not needed for a local file or folder.
    from lib import hub

    return hub.is_name(corpus)


def bytes_to_fetch(name: str, subsets: Collection[str] | None = SUBSETS) -> int:
    """How many bytes of a corpus on the hub are still to be fetched: at most, until its files' footers have been seen.

    Raises:
        HubError: if the hub cannot be asked.
    """
    from lib import hub

    return hub.dataset_to_fetch(name, _PATTERNS, _asked(subsets))


def _files_below(folder: Path) -> Files:
    def refuse(error: OSError) -> None:
        raise error

    found, seen = Files({}, {}), {_identity(folder)}
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(parent)
        # Dot-folders and dot-files belong to tools (a hub's cache, a desktop's previews), not to the corpus.
        inside = sorted(name for name in folders if not name.startswith("."))
        folders.clear()
        for name in inside:
            # A link may lead back to a folder above, or to one that is read under another name.
            if (known := _identity(here / name)) in seen:
                link = (here / name).relative_to(folder).as_posix()
                found.set_aside[link] = f"{link} is a link to a folder that is read already"
            else:
                seen.add(known)
                folders.append(name)
        for name in names:
            if not name.startswith("."):
                _add(found, (here / name).relative_to(folder).as_posix(), here / name)
    return found


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _add(found: Files, name: str, path: Path) -> None:
    if path.is_file():
        found.files[name] = path
    elif _is_readable(name):
        # Reading a pipe would wait for whoever writes to it.
        found.set_aside[name] = f"{name} is {_kind(path)}"


def _kind(path: Path) -> str:
    """What a path is that names neither a file nor a folder."""
    if not path.exists():
        return "a link to nothing"
    mode = path.stat().st_mode
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def _glob_files(pattern: str) -> Files:
    matches = [Path(match) for match in glob.glob(pattern, recursive=True)]  # noqa: PTH207
    # A link that leads back to a folder above would give its files again and again: the shortest names count.
    matches.sort(key=lambda path: (len(path.parts), path))
    firsts: dict[tuple[Path, str], Path] = {}
    for path in matches:
        if not path.is_dir():
            firsts.setdefault((path.parent.resolve(), path.name), path)
    if not firsts:
        only = " but folders" if matches else ""
        raise CorpusError(
            f"the pattern {pattern!r} matches nothing{only}.{_nearest_paths(Path(pattern))} Check CORPUS."
        )
    root, found = Path(os.path.commonpath([path.parent for path in firsts.values()])), Files({}, {})
    for path in firsts.values():
        _add(found, path.relative_to(root).as_posix(), path)
    return found


def _asked(subsets: Collection[str] | None) -> str:
    return "all" if subsets is None else " ".join(sorted(subsets))


def _from_hub(name: str, subsets: Collection[str] | None) -> Files:
    from lib import hub

    try:
        files, not_fetched = hub.dataset(
            name, _PATTERNS, _asked(subsets), lambda parquet: any(row_groups_with(subsets, parquet))
        )
        return Files(files, {}, hub.commit("dataset", name), not_fetched)
    except hub.HubError as error:
        raise CorpusError(
            f"no file or folder is named {name!r}, and {error}; or give CORPUS a file or folder."
        ) from error


def row_groups_with(subsets: Collection[str] | None, file: pq.ParquetFile) -> list[bool]:
    """For each row group of a parquet file, whether it can hold a row of one of the subsets, or a bad one.

    Decided by the footer's smallest and largest `subset_name`, where it has them.
    """
    if subsets is None:
        return [True] * file.metadata.num_row_groups
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


class Opened(NamedTuple):
    """The text of a file as a stream of UTF-8 without a byte-order mark, unpacked if it was packed."""

    stream: Any
    raw: Any
    """The file itself: where it stands says how many of its bytes are read."""
    packed: str
    """`gzip`, `zstd`, or nothing."""
    encoding: str
    """What the byte-order mark of another encoding says; else nothing."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """Open a file of text. Its first bytes show how it is packed and encoded, since names are often wrong."""
    with contextlib.ExitStack() as closing:
        raw: Any = closing.enter_context(path.open("rb", buffering=BUFFER))
        stream = raw
        packed = next((kind for magic, kind in _PACKED.items() if raw.peek(4).startswith(magic)), "")
        if packed:
            unpacked = gzip.GzipFile(fileobj=raw) if packed == "gzip" else pa.CompressedInputStream(raw, "zstd")
            stream = closing.enter_context(io.BufferedReader(unpacked, BUFFER))
        mark = next((mark for mark in _MARKS if stream.peek(4).startswith(mark)), b"")
        encoding = _MARKS.get(mark, "")
        if encoding:
            stream = closing.enter_context(io.BufferedReader(_Recoded(stream, encoding), BUFFER))
        else:
            stream.read(len(mark))
        yield Opened(stream, raw, packed, encoding)


_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
#: Longer marks first: that of UTF-32 begins with that of UTF-16. That of UTF-8 says nothing new.
_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\xef\xbb\xbf": "",
}


class _Recoded(io.RawIOBase):
    """A stream in another encoding as UTF-8. A lone surrogate stays one, which rows are tested for."""

    def __init__(self, stream: Any, encoding: str) -> None:
        self._text = io.TextIOWrapper(stream, encoding, "surrogatepass", newline="")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # A character has at most four bytes.
        data = self._text.read(len(buffer) // 4).encode("utf-8", "surrogatepass")
        buffer[: len(data)] = data
        return len(data)


def lines(name: str, stream: Any) -> Iterator[Any]:
    """The lines of a stream, of bytes or of text, refusing one that would fill the memory."""
    for number, line in enumerate(iter(lambda: stream.readline(LINE_BYTES), stream.read(0)), 1):
        if len(line) >= LINE_BYTES:
            raise CorpusError(f"{name}: line {number:,} is over {LINE_BYTES >> 20} MB. Is it one JSON row per line?")
        yield line


def _is_readable(name: str) -> bool:
    return name.lower().endswith((*SUFFIXES, *_OTHERS))


def damaged(name: str, error: Exception, how_far: str) -> str:
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return f"{name} is damaged or cut short: {how_far} ({reason}). Get the file again."


def denied(path: Any) -> CorpusError:
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
