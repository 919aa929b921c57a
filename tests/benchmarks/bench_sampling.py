"""From texts to chosen rows: lib.sampling against sentence-transformers and scikit-learn.

    python tests/benchmarks/bench_sampling.py [--corpus FOLDER] [--rows-per-subset 3500] [--quick] [--out CSV]

Both sides get the same rows and run in processes of their own. Ours starts from an empty cache, and its time includes
loading and converting the model. The peer embeds every row and calls KMeans(n_clusters=10) with its default n_init
("auto": one k-means++ start). Without --corpus the texts are made up by a generator, at lengths like the corpus's.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from harness import compare, record  # noqa: E402

SUBSETS = ["indo_puisi", "wikihow", "wikipedia_id", "safety_prompt", "identity_prompt", "dolly"]
CLUSTERS, TAKE = 10, 10_000 / 21_000


def corpus_texts(folder: Path, per_subset: int) -> list[str]:
    import pyarrow.dataset as ds

    from lib.sampling import draws

    table = ds.dataset(folder).to_table(["subset_name", "output"], filter=ds.field("subset_name").isin(SUBSETS))
    drawn = draws.draw(np.array(table["subset_name"].to_pylist()), "per_subset", per_subset, seed=0)
    return table["output"].take(drawn.rows).to_pylist()


def synthetic_texts(per_subset: int) -> list[str]:
    """Made-up sentences; two of the six kinds repeat few distinct texts, as the corpus's do."""
    rng = np.random.default_rng(0)
    syllables = [a + b for a in "bcdghjklmnprstwy" for b in ("a", "i", "u", "e", "o", "an", "ung", "ar")]
    words = ["".join(rng.choice(syllables, size=rng.integers(1, 4))) for _ in range(3000)]
    texts: list[str] = []
    for mean_words, distinct in [(22, None), (120, None), (95, None), (50, 187), (18, 125), (4, None)]:
        lengths = np.maximum(1, rng.gamma(3, mean_words / 3, size=distinct or per_subset)).astype(int)
        pool = [" ".join(rng.choice(words, size=length)) + "." for length in lengths]
        texts += [pool[i % len(pool)] for i in range(per_subset)]
    return texts


def ours(texts: list[str], folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from lib.sampling import draws, embedding

    with tempfile.TemporaryDirectory(dir=folder) as cache:
        vectors = embedding.embed(texts, Path(cache), device="cpu")
    clusters = draws.cluster(vectors, CLUSTERS, seed=0)
    return vectors, clusters.labels, draws.take_equally(clusters.labels, int(len(texts) * TAKE / CLUSTERS), seed=0)


def plain(texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from sentence_transformers import SentenceTransformer
    from sklearn.cluster import KMeans

    from lib.sampling import embedding

    model = SentenceTransformer(str(embedding.model_folder()), device="cpu")
    vectors = model.encode(texts, show_progress_bar=True)
    labels = KMeans(n_clusters=CLUSTERS, random_state=0).fit(vectors).labels_
    rng = np.random.default_rng(0)
    each = int(len(texts) * TAKE / CLUSTERS)
    members = [np.flatnonzero(labels == label) for label in range(CLUSTERS)]
    return vectors, labels, np.concatenate([rng.choice(m, min(each, len(m)), replace=False) for m in members])


def inertia(vectors: np.ndarray, labels: np.ndarray) -> float:
    return sum(float(((g - g.mean(axis=0)) ** 2).sum()) for g in (vectors[labels == k] for k in np.unique(labels)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="folder of parquet files in the Cendol schema")
    parser.add_argument("--rows-per-subset", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--quick", action="store_true", help="400 rows a subset and one turn")
    parser.add_argument("--out", type=Path, default=Path("reports/bench/results.csv"))
    parser.add_argument("--side", choices=["ours", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()

    if args.side:
        texts = json.loads((args.folder / "texts.json").read_text())
        start = time.perf_counter()
        vectors, labels, rows = ours(texts, args.folder) if args.side == "ours" else plain(texts)
        print("RESULT " + json.dumps({"seconds": time.perf_counter() - start, "rows": len(rows)}))
        np.savez(args.folder / f"{args.side}.npz", vectors=vectors, labels=labels)
        return

    per_subset = args.rows_per_subset or (400 if args.quick else 3500)
    if not args.corpus:
        print("no --corpus: the texts are synthetic")
    texts = corpus_texts(args.corpus, per_subset) if args.corpus else synthetic_texts(per_subset)
    print(f"{len(texts):,} rows, {len(set(texts)):,} distinct texts")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "texts.json").write_text(json.dumps(texts))
        argv = [sys.executable, __file__, "--folder", folder, "--side"]
        repeats = args.repeats or (1 if args.quick else 3)
        mine, peer = compare("sampling", [*argv, "ours"], [*argv, "peer"], repeats)
        sides = {side: dict(np.load(Path(folder) / f"{side}.npz")) for side in ("ours", "peer")}
    name = "SentenceTransformer.encode + sklearn KMeans"
    a, b = sides["ours"], sides["peer"]
    rows = [("sampling", side, name, "texts", len(texts), "rows") for side in ("ours", "peer")]
    for side, found in (("ours", mine), ("peer", peer)):
        rows.append(("sampling", side, name, "time", found["seconds"], "s"))
        rows.append(("sampling", side, name, "peak memory", found["peak_mib"], "MiB"))
        rows.append(("sampling", side, name, "chosen", found["rows"], "rows"))
        common = inertia(b["vectors"], sides[side]["labels"])
        rows.append(("sampling", side, name, "inertia in plain space", common, "1"))
        own = inertia(sides[side]["vectors"], sides[side]["labels"])
        rows.append(("sampling", side, name, "inertia in own space", own, "1"))
    rows.append(("sampling", "ours", name, "speed ratio", peer["seconds"] / mine["seconds"], "x"))
    rows.append(("sampling", "ours", name, "mean cosine", float((a["vectors"] * b["vectors"]).sum(axis=1).mean()), "1"))
    record(args.out, rows)


if __name__ == "__main__":
    main()
