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
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from lib import code
from lib.config import Config, Corpus
from lib.corpus.files import CorpusError
from lib.corpus.ties import Texts, Ties, Words
from lib.storage import whole

SPLITS = ("train", "validation", "test")
KINDS = ("prompt", "output")
_WORD = re.compile(r"\w+")
_ASCII_WORDS = "".join(chr(n).lower() if _WORD.match(chr(n)) else " " for n in range(128))
_SHORT_OUTPUT_WORDS = 3
_HASHES = np.dtype([("pair", np.int64), ("prompt", np.int64), ("output", np.int64), ("short", bool)])


def normalise(text: str) -> str:
    """The words of a text, in small letters and one space apart: what two texts that say the same have in common."""
    if text.isascii():
        # The same words in half the time, and most texts are.
        return " ".join(text.translate(_ASCII_WORDS).split())
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


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
    with (
        tempfile.TemporaryDirectory(dir=rows.parent, prefix=".texts-") as folder,
        # Once for what the texts are, once for which of them contain others.
        tqdm(total=2 * file.metadata.num_rows, desc="grouping rows", unit="row") as progress,
    ):
        texts = {kind: Texts(Path(folder, kind)) for kind in KINDS}
        for first, batch, said in _batches(file):
            part = np.zeros(len(batch), _HASHES)
            part["pair"] = [_pair(p, o) for p, o in zip(*(said[kind] for kind in KINDS), strict=True)]
            for kind in KINDS:
                part[kind] = [_hash(text) for text in said[kind]]
                texts[kind].add(first, part[kind], said[kind])
            part["short"] = [text.count(" ") < _SHORT_OUTPUT_WORDS for text in said["output"]]
            subsets.append(batch["subset_name"].cast(pa.string()).dictionary_encode())
            hashes.append(part)
            progress.update(len(part))
        found = np.concatenate(hashes)
        hashes.clear()
        pa.default_memory_pool().release_unused()
        ties = Ties(len(found))
        tying = {
            "prompt": ~_generic(found["prompt"], found["output"], settings.generic_after),
            "output": ~found["short"],
        }
        for kind in KINDS:
            at = np.flatnonzero(tying[kind])
            ties.tie_equal(at, found[kind][at])
            distinct, first_of = np.unique(found[kind][at], return_index=True)
            one, other = texts[kind].near_duplicates(distinct, settings.near_duplicate_similarity)
            if kind == "prompt":
                # A family of near-duplicates with many outputs ("how do I use the command ...") names no answer either.
                family = Ties(len(distinct))
                family.tie(one, other)
                text_of = np.searchsorted(distinct, found[kind][at])
                generic = np.zeros(len(distinct), dtype=bool)
                generic[text_of] = _generic(family.component[text_of], found["output"][at], settings.generic_after)
                one, other = one[~generic[one]], other[~generic[one]]
            ties.tie(at[first_of[one]], at[first_of[other]])
            texts[kind].keep(tying[kind])
        for first, batch, said in _batches(file):
            for kind in KINDS:
                words = Words(said[kind])
                for of in KINDS:
                    row, container = texts[of].contained_in(words)
                    some = tying[kind][first + container]
                    ties.tie(row[some], first + container[some])
            progress.update(len(batch))

    subset = pa.chunked_array(subsets).unify_dictionaries().to_pandas()
    table = pd.DataFrame({name: found[name] for name in ("pair", "prompt", "output", "short")})
    del found
    table.insert(0, "subset", pd.Categorical(subset, categories=sorted(subset.cat.categories)))
    table["group"] = _named(ties.component, table["pair"].to_numpy())
    table["split"] = pd.Categorical.from_codes(_sides(table["group"].to_numpy(), settings), SPLITS)
    table["left_over"] = (table["split"] == "train") & _left_over(table["pair"], settings)
    return table


def _batches(file: pq.ParquetFile) -> Iterator[tuple[int, pa.RecordBatch, dict[str, list[str]]]]:
    """The rows of a corpus in batches: the first one's number, the rows, and their normalised texts by kind."""
    first = 0
    for batch in file.iter_batches(5_000, columns=["subset_name", "input", "output"]):
        said = {
            kind: [normalise(text) for text in batch[column].to_pylist()]
            for kind, column in zip(KINDS, ("input", "output"), strict=True)
        }
        yield first, batch, said
        first += len(batch)


def pair_of(prompt: str, output: str) -> int:
    """A row's value under `pair` in the table of `assign`."""
    return _pair(normalise(prompt), normalise(output))


def alike(rows: pd.DataFrame, texts: pd.Series, similarity: float) -> pd.DataFrame:
    """Which rows say what some texts say, by the measures that tie rows: the same, nearly the same, or one as a part of
    the other. Groups tie over several steps; here row and text are alike themselves.

    Args:
        rows: with columns input and output.
        similarity: `near_duplicate_similarity`.

    Returns:
        `row` and `text`, the labels of every pair in the indexes of `rows` and `texts`, each once.
    """
    asked = _distinct(texts)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for column in ("input", "output"):
            own = _distinct(rows[column])
            known, count = Texts(Path(folder, column)), len(own)
            known.add(0, own.index.to_numpy(), own["said"].tolist())
            known.add(count, asked.index.to_numpy(), asked["said"].tolist())
            same = np.intersect1d(own.index, asked.index)
            pairs = [(same, same), known.alike(own.index.to_numpy(), asked.index.to_numpy(), similarity)]
            of_texts = np.arange(count + len(asked)) >= count
            known.keep(of_texts)
            inside, around = known.contained_in(Words(own["said"].tolist()))
            pairs.append((own.index[around], asked.index[inside - count]))
            known.keep(~of_texts)
            inside, around = known.contained_in(Words(asked["said"].tolist()))
            pairs.append((own.index[inside], asked.index[around]))
            for one, other in pairs:
                table = pd.DataFrame({"row": own["at"].loc[one].to_numpy(), "text": asked["at"].loc[other].to_numpy()})
                found.append(table.explode("row").explode("text"))
    return pd.concat(found).drop_duplicates(ignore_index=True)


def _distinct(texts: pd.Series) -> pd.DataFrame:
    """The normalised texts (`said`), each once by its hash, and where it is in the index (`at`, a list)."""
    said = texts.map(normalise)
    table = pd.DataFrame({"hash": said.map(_hash).astype(np.int64), "said": said, "at": texts.index})
    return table.groupby("hash").agg(said=("said", "first"), at=("at", list))


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


def prepare(config: Config) -> pd.DataFrame:
    """The split of a run's corpus: read from its file if that was made from the same rows, else made and written.

    Raises:
        CorpusError: if the corpus leaves a side without rows.
    """
    if config.paths.split.is_file():
        made_from, table = _read(config.paths.split)
        if made_from == origin(config):
            return table
    table = assign(config.paths.rows, config.corpus)
    _require_every_side(table, config.corpus)
    frame = pa.Table.from_pandas(table, preserve_index=False)
    frame = frame.replace_schema_metadata({**(frame.schema.metadata or {}), b"made_from": origin(config).encode()})
    with whole(config.paths.split) as temporary:
        pq.write_table(frame, temporary)
    return table


def _require_every_side(table: pd.DataFrame, settings: Corpus) -> None:
    wanted = {"train": 1.0, "validation": settings.validation_share, "test": settings.test_share}
    there = {side: bool((table["split"] == side).any()) for side in SPLITS}
    # No sampling draws what is left over.
    there["train"] = bool(((table["split"] == "train") & ~table["left_over"]).any())
    wanted["left over for the paper's protocol"] = settings.test_share
    there["left over for the paper's protocol"] = bool(table["left_over"].any())
    empty = [side for side, share in wanted.items() if share and not there[side]]
    if empty:
        raise CorpusError(
            f"{settings.source!r} has {len(table):,} rows of the subsets, {table['pair'].nunique():,} distinct, "
            f"in {table['group'].nunique():,} groups of rows that say the same. That leaves no row for: "
            f"{', '.join(empty)}. Add rows that say other things: some hundred groups are enough."
        )


def read(config: Config) -> pd.DataFrame:
    """The split that the sampling stage has written.

    Raises:
        FileNotFoundError: if it has not run.
    """
    if not config.paths.split.is_file():
        raise FileNotFoundError(
            f"no split of run {config.run!r} yet: run 1_sampling first, or `{config.paths.command}`"
        )
    return _read(config.paths.split)[1]


def _read(path: Path) -> tuple[str, pd.DataFrame]:
    table = pq.read_table(path)
    return table.schema.metadata[b"made_from"].decode(), table.to_pandas()


def origin(config: Config) -> str:
    """What a split depends on: the rows, the settings of the corpus, and the code."""
    rows = json.loads(config.paths.corpus_summary.read_text())["fingerprint"]
    return json.dumps([rows, asdict(config.corpus), code.fingerprint("corpus")])
