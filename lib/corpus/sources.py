"""`CORPUS=open`: rows in Cendol's six subsets from public repositories, each at one commit and under a stated licence.

The table is `tables/sources.toml`. The texts stay where their authors published them: a run fetches them once into
artifacts/sources, writes artifacts/corpora/open.parquet from them, and needs no network after that.
"""

import hashlib
import json
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from tqdm import tqdm

from lib import paths
from lib.corpus import fetching, parsing
from lib.corpus.fetching import Pin
from lib.corpus.files import COLUMNS, SUBSETS, CorpusError
from lib.storage import whole, write_json

TABLE = Path(__file__).parent / "tables" / "sources.toml"
#: The columns of the file: Cendol's, and the repository with its commit.
_SCHEMA = pa.schema([(name, pa.string()) for name in (*COLUMNS, "repository")])


@dataclass(frozen=True)
class Published:
    """Some files of a public repository at one commit."""

    name: str
    repository: str
    """A URL that git can fetch from."""
    commit: str
    licence: str
    """From the list of SPDX."""
    stated: str
    """Where the licence is stated."""
    attribution: str
    files: tuple[Pin, ...]

    @property
    def short(self) -> str:
        """The repository and the beginning of its commit: owner/name@123456789abc."""
        return f"{'/'.join(self.repository.split('/')[-2:])}@{self.commit[:12]}"

    @property
    def folder(self) -> Path:
        """Where its files are, under their paths in the repository."""
        return paths.ROOT / "artifacts" / "sources" / self.short.replace("/", "+")

    def described(self) -> dict[str, Any]:
        """What a manifest, a page and a card say of it: plain values, without the pinned files."""
        return {name: value for name, value in asdict(self).items() if name != "files"}


@dataclass(frozen=True)
class Source(Published):
    """A repository's files that one parser makes rows of one subset from. Its name is that of its rows' data set."""

    subset: str
    parser: str
    rows: int
    """How many rows the parser makes, each different from all others of the corpus before it."""


@cache
def table() -> tuple[Source, ...]:
    """All sources, in the order of the corpus."""
    return tuple(Source(**entry) for entry in entries(TABLE))


def entries(table: Path) -> Iterator[dict[str, Any]]:
    """The entries of a table of public repositories, with their files as pins."""
    for entry in tomllib.loads(table.read_text(encoding="utf-8"))["source"]:
        yield entry | {"files": tuple(Pin(**pin) for pin in entry["files"])}


def sizes() -> dict[str, int]:
    """The rows of each subset, whether fetched or not."""
    found: Counter[str] = Counter()
    for source in table():
        found[source.subset] += source.rows
    return {subset: found[subset] for subset in SUBSETS}


def licences() -> list[str]:
    """The licences of all sources, each once, in order of name."""
    return sorted({source.licence for source in table()})


def to_fetch() -> int:
    """Bytes of the files that are still to be fetched; 0 where the corpus is written already."""
    if is_written():
        return 0
    wanted = {(source.folder, pin) for source in table() for pin in source.files}
    return sum(pin.bytes for folder, pin in wanted if not fetching.is_right(folder, pin))


def path() -> Path:
    """The corpus, once it is written."""
    return paths.ROOT / "artifacts" / "corpora" / "open.parquet"


def write() -> Path:
    """Fetch what is not here yet, and write the corpus unless it is written; returns its path.

    The rows are in the order of the table and of the files, without those that came before. Each has Cendol's columns
    and `repository`.

    Raises:
        FetchError: if a source cannot be fetched.
        CorpusError: if a parser makes another number of rows than the table says.
    """
    path().parent.mkdir(parents=True, exist_ok=True)
    # Two runs may begin at once.
    with FileLock(path().with_name(".open.lock")):
        if not is_written():
            for source in tqdm(table(), desc="sources"):
                fetching.fetch(source.repository, source.commit, source.files, source.folder)
            rows = list(_rows())
            _check(Counter(row["dataset_name"] for row in rows))
            with whole(path()) as temporary:
                pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), temporary, compression="zstd")
            write_json(_record(), {"made_from": fingerprint(), "bytes": path().stat().st_size})
    return path()


def is_written() -> bool:
    """Whether the corpus is there, whole, from this table and by these parsers."""
    if not path().is_file() or not _record().is_file():
        return False
    return json.loads(_record().read_text()) == {"made_from": fingerprint(), "bytes": path().stat().st_size}


def fingerprint() -> str:
    """A SHA-256 over the table, with its commits and hashes, and over the parsers."""
    made_from = hashlib.sha256()
    for file in (TABLE, Path(parsing.__file__), Path(__file__)):
        made_from.update(file.read_bytes())
    return made_from.hexdigest()


def described() -> list[dict[str, Any]]:
    """What a manifest, a page and a card say of each source (`Published.described`)."""
    return [source.described() for source in table()]


def _record() -> Path:
    return path().with_suffix(".json")


def _rows() -> Iterator[dict[str, str]]:
    seen: set[tuple[str, str]] = set()
    for source in table():
        files = {path: data for pin in source.files for path, data in fetching.read(source.folder, pin).items()}
        for pair in parsing.PARSERS[source.parser](files):
            if pair.input and pair.output and (pair.input, pair.output) not in seen:
                seen.add((pair.input, pair.output))
                yield {
                    "dataset_name": source.name,
                    "subset_name": source.subset,
                    "prompt_id": f"{source.name}/{pair.template}",
                    "template_name": pair.template,
                    "dataset_key": "train",
                    "input": pair.input,
                    "output": pair.output,
                    "repository": source.short,
                }


def _check(made: Counter[str]) -> None:
    for source in table():
        if made[source.name] != source.rows:
            raise CorpusError(
                f"the parser {source.parser!r} makes {made[source.name]:,} rows of {source.name}, and {TABLE.name} "
                f"says {source.rows:,}. If the parser was changed on purpose, write the new number there."
            )
