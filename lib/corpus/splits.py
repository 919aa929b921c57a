"""Train, validation and test, separated before anything is sampled.

Rows that say the same thing form a group: rows tied by the same normalised prompt, the same normalised output, or
near-duplicate text. The group as a whole goes to one side, by a hash of what it says. So no sampling method can put
into training what the test will ask, and adding rows to the corpus moves no other group.

The paper's way is kept for comparison: single rows of the training side, whose copies may be trained on, are left over
by every sampling and tested on.
"""

import hashlib
import json
import re
import tempfile
import unicodedata
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from rensa import RMinHash
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from lib.config import Config, Corpus
from lib.storage import whole

SPLITS = ("train", "validation", "test")
# Sixteen bands of four find 99.98 % of the pairs that are 0.8 alike; the whole signature then decides.
_BANDS, _BAND_ROWS = 16, 4
#: Shorter texts have too few shingles for their similarity to mean anything; only equality ties them.
_MIN_NEAR_DUPLICATE_WORDS = 8
_SHORT_OUTPUT_WORDS = 3
_HASHES = np.dtype([("pair", np.int64), ("prompt", np.int64), ("output", np.int64), ("short", bool)])


def normalise(text: str) -> str:
    """The words of a text, in lower case and one space apart: what two texts that say the same have in common."""
    return re.sub(r"\W+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def assign(rows: Path, settings: Corpus) -> pd.DataFrame:
    """Group the rows of a selected corpus and give every group a side.

    Args:
        rows: the parquet file of `lib.corpus.selection.select`.

    Returns:
        A row for each row of the file, in its order: `subset`; `pair`, `prompt` and `output`, 64-bit hashes of the
        normalised texts; `short` (an output of at most three words, which ties nothing); `group`; `split`;
        `left_over` (a row of the training side that no sampling draws). How many copies of a row are left over does
        not depend on the order of the file; which of them, should they differ in spelling, does.
    """
    # With pre-buffering, all that was read would stay in memory to the end.
    file = pq.ParquetFile(rows, pre_buffer=False)
    subsets: list[pa.Array] = []
    hashes: list[np.ndarray] = []
    # Signatures take many times the memory of the table, so they are kept on disk, beside the rows.
    with tempfile.TemporaryDirectory(dir=rows.parent, prefix=".signatures-") as name:
        signatures = {text: _Signatures(Path(name, text)) for text in ("prompt", "output")}
        with tqdm(total=file.metadata.num_rows, desc="grouping rows", unit="row") as progress:
            for batch in file.iter_batches(5_000, columns=["subset_name", "input", "output"]):
                prompts = [normalise(text) for text in batch["input"].to_pylist()]
                outputs = [normalise(text) for text in batch["output"].to_pylist()]
                part = np.zeros(len(prompts), _HASHES)
                part["pair"] = [_pair(p, o) for p, o in zip(prompts, outputs, strict=True)]
                part["prompt"] = [_hash(p) for p in prompts]
                part["output"] = [_hash(o) for o in outputs]
                part["short"] = [o.count(" ") < _SHORT_OUTPUT_WORDS for o in outputs]
                signatures["prompt"].add(part["prompt"], prompts)
                signatures["output"].add(part["output"], outputs)
                subsets.append(batch["subset_name"].cast(pa.string()).dictionary_encode())
                hashes.append(part)
                progress.update(len(part))
        found = np.concatenate(hashes)
        hashes.clear()
        pa.default_memory_pool().release_unused()
        ties = _Ties(len(found))
        for text, tying in (
            ("prompt", ~_generic(found["prompt"], found["output"], settings.generic_after)),
            ("output", ~found["short"]),
        ):
            at = np.flatnonzero(tying)
            ties.tie_equal(at, found[text][at])
            distinct, first = np.unique(found[text][at], return_index=True)
            signatures.pop(text).tie_near_duplicates(distinct, at[first], settings.near_duplicate_similarity, ties)

    subset = pa.chunked_array(subsets).unify_dictionaries().to_pandas()
    table = pd.DataFrame({name: found[name] for name in ("pair", "prompt", "output", "short")})
    del found
    table.insert(0, "subset", pd.Categorical(subset, categories=sorted(subset.cat.categories)))
    table["group"] = _named(ties.component, table["pair"].to_numpy())
    table["split"] = pd.Categorical.from_codes(_sides(table["group"].to_numpy(), settings), SPLITS)
    table["left_over"] = (table["split"] == "train") & _left_over(table["pair"], settings)
    return table


def pair_of(prompt: str, output: str) -> int:
    """A row's value under `pair` in the table of `assign`."""
    return _pair(normalise(prompt), normalise(output))


def leakage(table: pd.DataFrame, test_share: float, seed: int = 0) -> pd.DataFrame:
    """How much a random split of the rows, the paper's way, leaks: a row for each subset, and one for all.

    Columns: `rows`; `distinct rows`; `distinct outputs`; `groups`; then the share of a random test set whose row, and
    whose output, is also in its training set; then the same share of rows for our split (0 by construction).
    """
    in_test = np.random.default_rng(seed).random(len(table)) < test_share
    pairs, outputs = (np.unique(table.loc[~in_test, name]) for name in ("pair", "output"))
    ours = np.unique(table.loc[table["split"] != "test", "pair"])
    rows = []
    for name, part in [*table.groupby("subset", sort=True), ("all", table)]:
        test = part[in_test[part.index]]
        clean = part[part["split"] == "test"]
        rows.append(
            {
                "subset": name,
                "rows": len(part),
                "distinct rows": part["pair"].nunique(),
                "distinct outputs": part["output"].nunique(),
                "groups": part["group"].nunique(),
                "random split: rows leaked": _share_in(test["pair"], pairs),
                "random split: outputs leaked": _share_in(test["output"], outputs),
                "grouped split: rows leaked": _share_in(clean["pair"], ours),
            }
        )
    return pd.DataFrame(rows).set_index("subset")


def _share_in(values: pd.Series, known: np.ndarray) -> float:
    """The share of values that are among the known ones; NaN if there are none."""
    return float(np.isin(values, known).mean()) if len(values) else float("nan")


def _pair(prompt: str, output: str) -> int:
    return _hash(f"{prompt}\n{output}")


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _uniform(group: int, seed: int) -> float:
    return (_hash(f"{seed}:{group}") + 2**63) / 2**64


def _named(component: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """For each row, its group's name: made from what its rows say, so that it stays when the corpus is re-ordered."""
    least = np.full(len(pair), np.iinfo(np.int64).max)
    np.minimum.at(least, component, pair)
    return least[component]


def _sides(group: np.ndarray, settings: Corpus) -> np.ndarray:
    """For each row, the place of its group's side in `SPLITS`."""
    names, of = np.unique(group, return_inverse=True)
    position = np.fromiter((_uniform(int(name), settings.split_seed) for name in names), float, len(names))
    test, validation = settings.test_share, settings.test_share + settings.validation_share
    side = np.select([position < test, position < validation], [np.int8(2), np.int8(1)], np.int8(0))
    return side[of]


def _left_over(pair: pd.Series, settings: Corpus) -> np.ndarray:
    """For each row, whether the paper's way leaves it over. A random split separates copies: each has its own draw."""
    copy = pd.DataFrame({"pair": pair, "copy": pair.groupby(pair).cumcount(), "seed": settings.split_seed})
    chance = pd.util.hash_pandas_object(copy, index=False).to_numpy() / 2**64
    return chance < settings.test_share


def _generic(prompt: np.ndarray, output: np.ndarray, limit: int) -> np.ndarray:
    """For each row, whether its prompt has more than `limit` distinct outputs."""
    order = np.lexsort((output, prompt))
    new_prompt = np.append(True, np.diff(prompt[order]) != 0)
    new_output = new_prompt | np.append(True, np.diff(output[order]) != 0)
    of = np.cumsum(new_prompt) - 1
    generic = np.empty(len(prompt), dtype=bool)
    generic[order] = np.bincount(of, weights=new_output)[of] > limit
    return generic


class _Ties:
    """Rows that belong together, found tie by tie: rows of the same `component` do."""

    def __init__(self, rows: int) -> None:
        self.component = np.arange(rows, dtype=np.int32)

    def tie(self, one: np.ndarray, other: np.ndarray) -> None:
        """Rows at the same place of both belong together."""
        one, other = self.component[one], self.component[other]
        apart = one != other
        if apart.any():
            edges = (one[apart], other[apart])
            count = len(self.component)
            graph = coo_array((np.ones(apart.sum(), dtype=np.int8), edges), shape=(count, count))
            self.component = connected_components(graph, directed=False)[1][self.component]

    def tie_equal(self, rows: np.ndarray, keys: np.ndarray) -> None:
        """Rows with the same key belong together."""
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero(np.diff(keys[order]) == 0)
        self.tie(rows[order[same]], rows[order[same + 1]])


class _Signatures:
    """MinHash signatures of texts, over shingles of three words; short texts have none. A file for each band."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._names: list[np.ndarray] = []
        self._files = [(folder / str(band)).open("wb") for band in range(_BANDS)]

    def add(self, names: np.ndarray, texts: list[str]) -> None:
        """Sign texts; a text's name is its hash. One that comes again, in another call, is signed again."""
        new_names, shingles = [], []
        for at in np.unique(names, return_index=True)[1]:
            words = texts[at].split()
            if len(words) >= _MIN_NEAR_DUPLICATE_WORDS:
                new_names.append(names[at])
                shingles.append([" ".join(words[i : i + 3]) for i in range(len(words) - 2)])
        self._names.append(np.array(new_names, dtype=np.int64))
        digests = np.array(RMinHash.digests_from_token_sets(shingles, _BANDS * _BAND_ROWS, 0), dtype=np.uint32)
        for band, file in enumerate(self._files):
            digests.reshape(-1, _BANDS, _BAND_ROWS)[:, band].tofile(file)

    def tie_near_duplicates(self, names: np.ndarray, rows: np.ndarray, similarity: float, ties: _Ties) -> None:
        """Tie the rows whose texts are alike; `names`, in ascending order, has the text of each."""
        for file in self._files:
            file.close()
        signed = np.concatenate(self._names)
        self._names.clear()
        # In the order of names, so that a bucket's leader does not depend on the order of the rows.
        at = np.unique(signed, return_index=True)[1]
        at = at[np.isin(signed[at], names)]
        if not len(at):
            return
        rows = rows[np.searchsorted(names, signed[at])]
        del signed
        for band in range(_BANDS):
            member, leader = _in_one_bucket(self._band(band, at))
            apart = ties.component[rows[member]] != ties.component[rows[leader]]
            member, leader = member[apart], leader[apart]
            if len(member):
                equal = np.zeros(len(member), dtype=np.int16)
                for other in range(_BANDS):
                    digests = self._band(other, at)
                    equal += (digests[member] == digests[leader]).sum(axis=1, dtype=np.int16)
                alike = equal / (_BANDS * _BAND_ROWS) >= similarity
                ties.tie(rows[member[alike]], rows[leader[alike]])

    def _band(self, band: int, at: np.ndarray) -> np.ndarray:
        """One band of the signatures at those places, shape (places, rows of a band)."""
        return np.fromfile(self._files[band].name, dtype=np.uint32).reshape(-1, _BAND_ROWS)[at]


def _in_one_bucket(digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each text, but for the first, of a bucket that has several; and the first one of its bucket."""
    halves = np.ascontiguousarray(digests).view(np.uint64)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    sorted_ = halves[order]
    new = np.append(True, (sorted_[1:] != sorted_[:-1]).any(axis=1))
    del sorted_
    first = order[np.flatnonzero(new)[np.cumsum(new) - 1]]
    return order[~new], first[~new]


def prepare(config: Config) -> pd.DataFrame:
    """The split of a run's corpus: read from its file if that was made from the same rows, else made and written."""
    if config.paths.split.is_file():
        made_from, table = _read(config.paths.split)
        if made_from == _origin(config):
            return table
    table = assign(config.paths.rows, config.corpus)
    frame = pa.Table.from_pandas(table, preserve_index=False)
    frame = frame.replace_schema_metadata({**(frame.schema.metadata or {}), b"made_from": _origin(config).encode()})
    with whole(config.paths.split) as temporary:
        pq.write_table(frame, temporary)
    return table


def read(config: Config) -> pd.DataFrame:
    """The split that the sampling stage has written.

    Raises:
        FileNotFoundError: if it has not run.
    """
    if not config.paths.split.is_file():
        raise FileNotFoundError(f"no split of run {config.run!r} yet: run 1_sampling first, or `make report`")
    return _read(config.paths.split)[1]


def _read(path: Path) -> tuple[str, pd.DataFrame]:
    table = pq.read_table(path)
    return table.schema.metadata[b"made_from"].decode(), table.to_pandas()


def _origin(config: Config) -> str:
    """What a split depends on: the rows, and the settings of the corpus."""
    return json.dumps([json.loads(config.paths.corpus_summary.read_text())["fingerprint"], asdict(config.corpus)])
