"""Choosing rows: draws from the subsets, clusters of embeddings, and an equal share of every cluster.

Everything is seeded: the same rows and the same seed give the same sample.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans

from lib.config import METHODS, Config, nearest
from lib.corpus import selection
from lib.sampling.embedding import embed
from lib.storage import whole


@dataclass(frozen=True)
class Draw:
    """Row indices in rising order, and for each subset that had too few rows: (rows asked for, rows there)."""

    rows: np.ndarray
    shortages: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Clusters:
    """K-means clusters: `labels` (n,), `centres` (k, d), and `inertia`, the sum of squared distances to the centres."""

    labels: np.ndarray
    centres: np.ndarray
    inertia: float


def draw(subsets: np.ndarray, method: str, rows: int, seed: int) -> Draw:
    """Draw row indices at random, without replacement, from rows whose subset names are `subsets` (n,).

    `method` says what `rows` counts: "random" draws `rows` in all, "per_subset" draws `rows` from each subset, and
    "stratified" draws `rows` in all, shared out in proportion to the subsets' sizes by largest remainder.
    Rows that are missing are counted in the result's `shortages` (under "all" where subsets do not matter).
    Raises ValueError for an unknown method or a negative number of rows.
    """
    if method not in METHODS:
        raise ValueError(
            f"unknown sampling method {method!r}{nearest(method, METHODS)}; choose from: {', '.join(METHODS)}"
        )
    if rows < 0:
        raise ValueError(f"rows must not be negative, got {rows}")
    subsets = np.asarray(subsets)
    codes, names = pd.factorize(subsets, sort=True)
    if method == "random":
        names, codes = np.array(["all"]), np.zeros(len(subsets), dtype=int)
    sizes = np.bincount(codes, minlength=len(names))
    asked = np.full(len(names), rows)
    if method == "stratified":
        asked = proportional_shares(sizes, min(rows, len(subsets)))

    rng = np.random.default_rng(seed)
    taken, shortages = [np.empty(0, dtype=np.int64)], {}
    for code, (name, size, want) in enumerate(zip(names, sizes, asked, strict=True)):
        taken.append(rng.choice(np.flatnonzero(codes == code), size=min(want, size), replace=False))
        if want > size:
            shortages[str(name)] = (int(want), int(size))
    if method == "stratified" and rows > len(subsets):
        shortages["all"] = (rows, len(subsets))
    return Draw(np.sort(np.concatenate(taken)), shortages)


def proportional_shares(sizes: np.ndarray, total: int) -> np.ndarray:
    """Whole shares (m,) of `total` in proportion to `sizes` (m,), by largest remainder; on a tie the first one gains.

    No share is larger than its size as long as `total` is at most the sum of the sizes.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    if total == 0 or sizes.sum() == 0:
        return np.zeros_like(sizes)
    # Whole numbers throughout: a float quotient can land on the wrong side of an exact share.
    shares, remainders = np.divmod(sizes * total, sizes.sum())
    shares[np.argsort(-remainders, kind="stable")[: total - shares.sum()]] += 1
    return shares


def cluster(embeddings: np.ndarray, k: int, seed: int) -> Clusters:
    """Cluster `embeddings` (n, d) into `k` groups by K-means (scikit-learn, k-means++ start).

    Equal rows are clustered once with their count as weight, which moves nothing but is faster on a repetitive corpus.
    With fewer distinct rows than `k`, every distinct row is a cluster of its own and there are fewer than `k` centres.
    Raises ValueError when there is nothing to cluster or `k` is below 1.
    """
    embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
    if len(embeddings) == 0 or k < 1:
        raise ValueError(f"cannot make {k} clusters of {len(embeddings)} rows")
    distinct, back, counts = _distinct_rows(embeddings)
    if len(distinct) <= k:
        return Clusters(back.astype(np.int32), distinct, 0.0)

    # One start lands a few percent above the best inertia now and then; four cost seconds beside the embedding.
    found = KMeans(k, n_init=4, random_state=seed).fit(distinct, sample_weight=counts)
    return Clusters(found.labels_[back], found.cluster_centers_, float(found.inertia_))


def _distinct_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct rows in order of first appearance, each row's place among them, and how often each one occurs."""
    raw = rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize))).ravel()
    _, first, back, counts = np.unique(raw, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return rows[first[order]], place[back.ravel()], counts[order]


def take_equally(labels: np.ndarray, per_cluster: int, seed: int) -> np.ndarray:
    """Choose `per_cluster` rows at random from every cluster in `labels` (n,), with labels 0 to k - 1.

    What short clusters lack is taken from the others as evenly as their sizes allow, so that
    min(k * per_cluster, n) sorted row indices come back, where k is the number of clusters that have rows.
    """
    labels = np.asarray(labels)
    if per_cluster < 0:
        raise ValueError(f"per_cluster must not be negative, got {per_cluster}")
    _, codes = np.unique(labels, return_inverse=True)
    sizes = np.bincount(codes)
    rng = np.random.default_rng(seed)
    shares = _even_shares(sizes, min(len(sizes) * per_cluster, len(labels)), rng)
    chosen = [np.empty(0, dtype=np.int64)]
    for code, share in enumerate(shares):
        chosen.append(rng.choice(np.flatnonzero(codes == code), size=share, replace=False))
    return np.sort(np.concatenate(chosen))


def _even_shares(sizes: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """Shares of `total` as equal as `sizes` allow: fill all clusters to one level, odd rows to some at random."""
    shares = np.zeros_like(sizes)
    while (left := total - shares.sum()) > 0:
        open_clusters = np.flatnonzero(shares < sizes)
        each = left // len(open_clusters)
        if each == 0:
            shares[rng.choice(open_clusters, size=left, replace=False)] += 1
        else:
            shares[open_clusters] = np.minimum(shares[open_clusters] + each, sizes[open_clusters])
    return shares


def nearest_to_centres(embeddings: np.ndarray, clusters: Clusters, count: int) -> np.ndarray:
    """Indices (k, count) of each cluster's own rows nearest to its centre, nearest first; padded with -1."""
    nearest = np.full((len(clusters.centres), count), -1, dtype=np.int64)
    for label, centre in enumerate(clusters.centres):
        members = np.flatnonzero(clusters.labels == label)
        distances = np.linalg.norm(embeddings[members] - centre, axis=1)
        closest = members[np.argsort(distances, kind="stable")[:count]]
        nearest[label, : len(closest)] = closest
    return nearest


@dataclass(frozen=True)
class Sample:
    """What one iteration trains and validates on, and how it was found."""

    table: pd.DataFrame
    """A row for each drawn row: `position` in the corpus file, `part` (train or validation), `subset`, `cluster`."""
    shortages: dict[str, tuple[int, int]]
    drawn: pd.DataFrame
    """The rows before an equal share of each cluster was taken: `position`, `subset`, `cluster`, `chosen`."""
    embeddings: np.ndarray
    """Of the drawn rows' outputs, shape (drawn, 384); empty without K-means."""
    clusters: Clusters | None


def sample(config: Config, split: pd.DataFrame) -> Sample:
    """Draw an iteration's training rows as its settings say, and its validation rows; write them to its sample file.

    Training rows come from the training side alone, without the rows that are left over for the paper's protocol;
    validation rows, which are all distinct, come from the validation side.
    """
    settings, seed = config.sampling, config.corpus.split_seed
    # Validation rows are the same for every training.
    draw_seed = seed + (config.seed if settings.redraw else 0)
    # Column by column: to choose rows of the whole table, pandas would copy it first.
    subset = split["subset"]
    side = np.flatnonzero((split["split"] == "train") & ~split["left_over"])
    found = draw(subset.iloc[side].to_numpy(), settings.method, settings.rows, draw_seed)
    drawn = pd.DataFrame({"position": side[found.rows], "cluster": -1, "chosen": True})
    embeddings, clusters = np.empty((0, 0), dtype=np.float32), None
    if settings.clusters:
        outputs = selection.read(config.paths.rows, drawn["position"].to_numpy(), columns=["output"])["output"]
        embeddings = embed(outputs.tolist(), config.paths.embeddings)
        clusters = cluster(embeddings, settings.clusters, draw_seed)
        drawn["cluster"] = clusters.labels
        drawn["chosen"] = False
        drawn.loc[take_equally(clusters.labels, settings.rows_per_cluster, draw_seed), "chosen"] = True
    drawn["subset"] = subset.iloc[drawn["position"]].to_numpy()

    held_out = np.flatnonzero(split["split"] == "validation")
    held_out = held_out[np.sort(np.unique(split["pair"].to_numpy()[held_out], return_index=True)[1])]
    validation = held_out[spread(subset.iloc[held_out].to_numpy(), settings.validation_rows, seed)]
    table = pd.concat(
        [
            drawn.loc[drawn["chosen"], ["position", "subset", "cluster"]].assign(part="train"),
            pd.DataFrame({"position": validation, "subset": subset.iloc[validation].to_numpy(), "part": "validation"}),
        ],
        ignore_index=True,
    ).fillna({"cluster": -1})
    with whole(config.paths.sample(config.sampled_as)) as temporary:
        table.to_parquet(temporary, index=False)
    return Sample(table, found.shortages, drawn, embeddings, clusters)


def spread(subsets: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """`rows` indices spread evenly over the subsets (n,), with what a small subset lacks taken from the others."""
    names, codes = np.unique(subsets, return_inverse=True)
    # The clusters of `take_equally` are the subsets here; one row a subset too many is cut from the end of the draw.
    chosen = take_equally(codes, -(-rows // max(1, len(names))), seed)
    surplus = len(chosen) - rows
    if surplus <= 0:
        return chosen
    return np.sort(np.random.default_rng(seed).permutation(chosen)[surplus:])
