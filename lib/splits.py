"""Train, validation and test, told apart before anything is sampled.

Rows that say the same thing form a group: rows tied by the same normalised prompt, the same normalised output, or
near-duplicate text. The group as a whole goes to one side, by a hash of what it says. So no sampling method can put
into training what the test will ask, and adding rows to the corpus moves no other group.

Beside that stands the paper's way, to be measured against it: single rows of the training side are left over by every
sampling, whatever their copies do, and tested on.
"""

import hashlib
import json
import re
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


def normalise(text: str) -> str:
    """The words of a text, in small letters and one space apart: what two texts that say the same have in common."""
    return re.sub(r"\W+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def assign(rows: Path, settings: Corpus) -> pd.DataFrame:
    """Group the rows of a selected corpus and give every group a side.

    Args:
        rows: the parquet file of `lib.corpus.select`.

    Returns:
        A row for each row of the file, in its order: `subset`; `pair`, `prompt` and `output`, 64-bit hashes of the
        normalised texts; `short` (an output of at most three words, which ties nothing); `group`; `split`;
        `left_over` (a row of the training side that no sampling draws). How many copies of a row are left over does
        not hang on the order of the file; which of them, should they differ in spelling, does.
    """
    file = pq.ParquetFile(rows)
    parts, prompt_signatures, output_signatures = [], _Signatures(), _Signatures()
    with tqdm(total=file.metadata.num_rows, desc="grouping rows", unit="row") as progress:
        for batch in file.iter_batches(20_000, columns=["subset_name", "input", "output"]):
            prompts = [normalise(text) for text in batch["input"].to_pylist()]
            outputs = [normalise(text) for text in batch["output"].to_pylist()]
            part = pd.DataFrame(
                {
                    "subset": batch["subset_name"].to_pylist(),
                    "pair": [_pair(p, o) for p, o in zip(prompts, outputs, strict=True)],
                    "prompt": [_hash(p) for p in prompts],
                    "output": [_hash(o) for o in outputs],
                    "short": [o.count(" ") < _SHORT_OUTPUT_WORDS for o in outputs],
                }
            )
            prompt_signatures.add(part["prompt"], prompts)
            output_signatures.add(part["output"], outputs)
            parts.append(part)
            progress.update(len(part))
    table = pd.concat(parts, ignore_index=True)

    generic = table.groupby("prompt")["output"].nunique() > settings.generic_after
    by_prompt = table.loc[~table["prompt"].map(generic), "prompt"]
    by_output = table.loc[~table["short"], "output"]
    ties = [by_prompt, by_output]
    ties += prompt_signatures.near_duplicates(by_prompt, settings.near_duplicate_similarity)
    ties += output_signatures.near_duplicates(by_output, settings.near_duplicate_similarity)
    component = _components(len(table), ties)

    # Named after what it says, not after where it stands: the side does not change when the corpus is re-ordered.
    table["group"] = table.groupby(component)["pair"].transform("min")
    draw = {group: _uniform(group, settings.split_seed) for group in table["group"].unique()}
    position = table["group"].map(draw)
    table["split"] = np.select(
        [position < settings.test_share, position < settings.test_share + settings.validation_share],
        ["test", "validation"],
        "train",
    )
    # Each copy of a row has a draw of its own: a random split of rows parts copies.
    copy = pd.DataFrame({"pair": table["pair"], "copy": table.groupby("pair").cumcount(), "seed": settings.split_seed})
    chance = pd.util.hash_pandas_object(copy, index=False).to_numpy() / 2**64
    table["left_over"] = (table["split"] == "train") & (chance < settings.test_share)
    return table


def pair_of(prompt: str, output: str) -> int:
    """What stands for a row under `pair` in the table of `assign`."""
    return _pair(normalise(prompt), normalise(output))


def leakage(table: pd.DataFrame, test_share: float, seed: int = 0) -> pd.DataFrame:
    """How much a random split of the rows, the paper's way, leaks: a row for each subset, and one for all.

    Columns: `rows`; `distinct rows`; `distinct outputs`; `groups`; then the share of a random test set whose row, and
    whose output, also stands in its training set; then the same share of rows for our split (0 by construction).
    """
    in_test = np.random.default_rng(seed).random(len(table)) < test_share
    pairs, outputs = set(table.loc[~in_test, "pair"]), set(table.loc[~in_test, "output"])
    ours = set(table.loc[table["split"] != "test", "pair"])
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
                "random split: rows leaked": test["pair"].isin(pairs).mean(),
                "random split: outputs leaked": test["output"].isin(outputs).mean(),
                "grouped split: rows leaked": clean["pair"].isin(ours).mean(),
            }
        )
    return pd.DataFrame(rows).set_index("subset")


def _pair(prompt: str, output: str) -> int:
    return _hash(f"{prompt}\n{output}")


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _uniform(group: int, seed: int) -> float:
    return (_hash(f"{seed}:{group}") + 2**63) / 2**64


class _Signatures:
    """MinHash signatures of distinct texts, over shingles of three words; short texts have none."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._names: list[int] = []
        self._digests: list[np.ndarray] = []

    def add(self, names: pd.Series, texts: list[str]) -> None:
        """Sign the texts that were not seen before; a text's name is its hash."""
        new_names, shingles = [], []
        for name, text in zip(names.tolist(), texts, strict=True):
            words = text.split()
            if name not in self._seen and len(words) >= _MIN_NEAR_DUPLICATE_WORDS:
                new_names.append(name)
                shingles.append([" ".join(words[i : i + 3]) for i in range(len(words) - 2)])
            self._seen.add(name)
        self._names += new_names
        digests = RMinHash.digests_from_token_sets(shingles, _BANDS * _BAND_ROWS, 0)
        self._digests.append(np.array(digests, dtype=np.uint32).reshape(-1, _BANDS, _BAND_ROWS))

    def near_duplicates(self, names: pd.Series, similarity: float) -> list[pd.Series]:
        """Ties between rows whose texts (by name) are alike: row -> key, one series for each band that ties any."""
        digests, signed = np.concatenate(self._digests), np.array(self._names, dtype=np.int64)
        wanted = np.flatnonzero(np.isin(signed, names.unique()))
        # By name, so that who leads a bucket does not hang on the order of the rows.
        wanted = wanted[np.argsort(signed[wanted])]
        digests, signed = digests[wanted], signed[wanted]
        ties = []
        for band in range(_BANDS):
            _, first, bucket = np.unique(digests[:, band], axis=0, return_index=True, return_inverse=True)
            leader = first[bucket.ravel()]
            alike = (digests == digests[leader]).mean(axis=(1, 2)) >= similarity
            bucket_of = pd.Series(leader[alike], index=signed[alike])
            rows = names[names.isin(bucket_of.index)]
            ties.append(rows.map(bucket_of))
        return ties


def _components(count: int, ties: list[pd.Series]) -> np.ndarray:
    """Connected components of rows, shape (count,), where rows with the same key in the same tie are connected."""
    rows, keys, width = [], [], count
    for tie in ties:
        codes, distinct = pd.factorize(tie)
        rows.append(tie.index.to_numpy())
        keys.append(codes + width)
        width += len(distinct)
    row, key = np.concatenate(rows), np.concatenate(keys)
    graph = coo_array((np.ones(len(row), dtype=np.int8), (row, key)), shape=(width, width))
    return connected_components(graph, directed=False)[1][:count]


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
