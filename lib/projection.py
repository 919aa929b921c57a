"""A picture in two dimensions of points in many."""

import numpy as np


def tsne(embeddings: np.ndarray, seed: int) -> np.ndarray:
    """Project `embeddings` (n, d) to (n, 2) by t-SNE from a PCA start; the same seed gives the same picture.

    openTSNE, because on 1,000 embeddings it took 27 s where scikit-learn took 46 s, at a KL divergence of 1.05 against
    1.06 (one run each, busy machine); from 10,000 points on it approximates by interpolation.
    Raises ValueError below 4 points, where there are no neighbourhoods to keep.
    """
    from openTSNE import TSNE

    if len(embeddings) < 4:
        raise ValueError(f"t-SNE needs at least 4 points, got {len(embeddings)}")
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    model = TSNE(perplexity=perplexity, initialization="pca", random_state=seed, n_jobs=-1)
    return np.asarray(model.fit(np.asarray(embeddings, dtype=np.float64)))
