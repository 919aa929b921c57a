"""Whether the split holds, by another measure than the one that it was made with.

The split ties rows by equal, contained and near-duplicate texts (`lib.corpus.ties`). Here the texts of its sides are
compared by the cosine of their TF-IDF vectors over character 4-grams. This check can fail; it counts what is left.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from lib.config import Config
from lib.corpus import selection
from lib.corpus.splits import KINDS, normalise, origin
from lib.storage import whole

#: From this cosine on, two texts are called alike.
BOUND = 0.87
#: How many texts of each side are compared at most, chosen by their hash; and how much of each.
TESTED, TRAINED, LETTERS = 5_000, 20_000, 1_000
_AT_ONCE = 512


def prepare(config: Config, split: pd.DataFrame) -> pd.DataFrame:
    """The table of `alike` of a run's corpus, from its file where that is of the same split."""
    if config.paths.alike.is_file():
        known = pd.read_parquet(config.paths.alike)
        if known.attrs.get("origin") == origin(config):
            return known
    table = alike(config.paths.rows, split)
    table.attrs["origin"] = origin(config)
    with whole(config.paths.alike) as temporary:
        table.to_parquet(temporary)
    return table


def shares(split: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The share of the test rows whose prompt, and whose output, has one alike on the other side, by subset and of all.

    Args:
        found: table of `alike`. Rows whose text it has not looked at are left out.
    """
    tested = split[split["split"] == "test"]
    table = {}
    for kind in KINDS:
        looked_at = tested[tested[kind].isin(tested[kind].drop_duplicates().nsmallest(TESTED))]
        hit = looked_at[kind].isin(split[kind].loc[found.loc[found["kind"] == kind, "row"]])
        of_subset = hit.groupby(looked_at["subset"].astype(str)).mean()
        table[f"grouped split: {kind}s alike"] = pd.concat([of_subset, pd.Series({"all": hit.mean()})])
    return pd.DataFrame(table)


def alike(rows: Path, split: pd.DataFrame, bound: float = BOUND) -> pd.DataFrame:
    """The test texts to which a text of the training or validation side is alike, prompts and outputs, alikest first.

    Args:
        rows: the parquet file of `selection.select`.
        split: the table of `splits.assign`.

    Returns:
        `kind` (prompt or output), `subset`, `row` and `other`, the positions of the test row and of the one most like
        it, `cosine`, `short` (an output of at most three words, which ties nothing), `text` and `other_text`.
    """
    found = []
    for kind, column in zip(KINDS, ("input", "output"), strict=True):
        sides = [
            _texts(rows, split[(split["split"] == "test") == tested], kind, column, most)
            for tested, most in ((True, TESTED), (False, TRAINED))
        ]
        if min(map(len, sides)):
            tested, other = sides
            place, cosine = _most_alike(tested, other)
            table = pd.DataFrame({"row": tested.index, "other": other.index[place], "cosine": cosine})
            table = table.assign(kind=kind, text=tested.to_numpy(), other_text=other.to_numpy()[place])
            found.append(table[table["cosine"] >= bound])
    names = ["kind", "subset", "row", "other", "cosine", "short", "text", "other_text"]
    if not found:
        return pd.DataFrame(columns=names)
    table = pd.concat(found, ignore_index=True)
    table["subset"] = split["subset"].loc[table["row"]].astype(str).to_numpy()
    table["short"] = split["short"].loc[table["row"]].to_numpy() & (table["kind"] == "output")
    return table.sort_values("cosine", ascending=False, kind="stable", ignore_index=True)[names]


def _texts(rows: Path, side: pd.DataFrame, kind: str, column: str, most: int) -> pd.Series:
    """Distinct normalised texts of one side, by position."""
    places = side.drop_duplicates(kind).nsmallest(most, kind).index.to_numpy()
    texts = selection.read(rows, places, columns=[column])[column]
    return pd.Series([normalise(text)[:LETTERS] for text in texts], index=places)


def _most_alike(tested: pd.Series, other: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """For each text of one side, the place of the text of the other that is most like it, and their cosine."""
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(4, 4), dtype=np.float32)
    vectors = vectorizer.fit_transform(pd.concat([other, tested]))
    known, asked = vectors[: len(other)].T.tocsc(), vectors[len(other) :]
    places, cosines = [], []
    for start in range(0, len(tested), _AT_ONCE):
        cosine = asked[start : start + _AT_ONCE] @ known
        places.append(np.asarray(cosine.argmax(axis=1)).ravel())
        cosines.append(cosine.max(axis=1).toarray().ravel())
    return np.concatenate(places), np.concatenate(cosines)
