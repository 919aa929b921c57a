"""lib.sampling.projection.tsne (scikit-learn's) against openTSNE on the same points, with each picture's KL divergence.

    python tests/benchmarks/bench_tsne.py [--corpus FOLDER] [--quick] [--out CSV]

The points are the embeddings of distinct outputs of a corpus, drawn as the sampling benchmark draws them; without
--corpus they are unit vectors around 10 centres, 384 wide. The divergence of both is computed here, from
scikit-learn's neighbour probabilities and the exact distances in the picture, so that the two are comparable.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from bench_sampling import corpus_texts  # noqa: E402
from harness import compare, record  # noqa: E402


def synthetic(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(10, 384))[rng.integers(10, size=count)] + rng.normal(size=(count, 384))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def embedded(folder: Path, count: int) -> np.ndarray:
    """At most `count` distinct outputs, embedded."""
    from lib.sampling import embedding

    texts = list(dict.fromkeys(corpus_texts(folder, count // 3)))
    with tempfile.TemporaryDirectory() as cache:
        return embedding.embed(
            [texts[i] for i in np.random.default_rng(0).permutation(len(texts))[:count]], Path(cache)
        )


def divergence(points: np.ndarray, picture: np.ndarray) -> float:
    """KL divergence at perplexity 30."""
    from sklearn.manifold._t_sne import _joint_probabilities_nn
    from sklearn.neighbors import NearestNeighbors

    graph = NearestNeighbors(n_neighbors=91, n_jobs=-1).fit(points).kneighbors_graph(mode="distance")
    graph.data **= 2
    p = _joint_probabilities_nn(graph, 30, 0).tocoo()
    total = -float(len(picture))  # each point's weight of 1 with itself does not count
    for start in range(0, len(picture), 500):
        gaps = picture[start : start + 500, None, :] - picture[None, :, :]
        total += float((1 / (1 + (gaps**2).sum(axis=2))).sum())
    near = 1 / (1 + ((picture[p.row] - picture[p.col]) ** 2).sum(axis=1))
    kept = p.data > 0
    return float((p.data[kept] * np.log(p.data[kept] / (near[kept] / total))).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="folder of parquet files in the Cendol schema")
    parser.add_argument("--quick", action="store_true", help="1,000 points and one turn")
    parser.add_argument("--out", type=Path, default=Path("reports/bench/results.csv"))
    parser.add_argument("--side", choices=["ours", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()

    if args.side:
        points = np.load(args.folder / "points.npy")
        from openTSNE import TSNE

        from lib.sampling import projection

        start = time.perf_counter()
        if args.side == "ours":
            picture = projection.tsne(points, seed=0)
        else:
            model = TSNE(perplexity=30, initialization="pca", random_state=0, n_jobs=-1)
            picture = np.asarray(model.fit(points.astype(np.float64)))
        seconds = time.perf_counter() - start
        print("RESULT " + json.dumps({"seconds": seconds}))
        np.save(args.folder / f"{args.side}.npy", picture)
        return

    count = 1_000 if args.quick else 10_000
    if not args.corpus:
        print("no --corpus: the points are synthetic")
    points = embedded(args.corpus, count) if args.corpus else synthetic(count)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "points.npy", points)
        argv = [sys.executable, __file__, "--folder", folder, "--side"]
        mine, peer = compare("tsne", [*argv, "ours"], [*argv, "peer"], 1 if args.quick else 3)
        pictures = {side: np.load(Path(folder) / f"{side}.npy").astype(float) for side in ("ours", "peer")}
    rows = []
    for side, found in (("ours", mine), ("peer", peer)):
        rows.append(("tsne", side, "openTSNE", "points", len(points), "points"))
        rows.append(("tsne", side, "openTSNE", "time", found["seconds"], "s"))
        rows.append(("tsne", side, "openTSNE", "peak memory", found["peak_mib"], "MiB"))
        rows.append(("tsne", side, "openTSNE", "KL divergence", divergence(points, pictures[side]), "nat"))
    rows.append(("tsne", "ours", "openTSNE", "speed ratio", peer["seconds"] / mine["seconds"], "x"))
    record(args.out, rows)


if __name__ == "__main__":
    main()
