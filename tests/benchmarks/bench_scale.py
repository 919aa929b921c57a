"""Sampling at the paper's own scale: time and memory from the corpus's files to the chosen rows, by rows of the corpus.

    python tests/benchmarks/bench_scale.py --corpus FOLDER [--rows 1000000 4000000 12810390] [--out CSV]

FOLDER holds parquet files whose rows are shuffled, so that the first of them are a smaller corpus of the same kind. The
peer is the smallest corpus: what N times its rows may take is N times its time. Each size runs in a process of its own,
from reading and grouping to embedding and clustering, as notebook 1 does for row 5 at the paper's scale.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from harness import measure, record  # noqa: E402

MOST_MIB = 2e9 / 2**20


def run_side(corpus: str, folder: Path) -> None:
    """Sample once; print what each step took."""
    from lib import paths
    from lib.corpus import selection, splits
    from lib.parameters import load_config
    from lib.sampling import draws

    paths.ROOT = folder
    config = load_config("scale", "paper", "5", corpus=corpus)
    times = [time.perf_counter()]
    summary = selection.prepare(config)
    times.append(time.perf_counter())
    split = splits.prepare(config)
    times.append(time.perf_counter())
    sample = draws.sample(config, split)
    times.append(time.perf_counter())
    found = {"rows": summary.rows_read, "kept": len(split), "drawn": len(sample.table), "seconds": times[-1] - times[0]}
    found |= {name: times[n + 1] - times[n] for n, name in enumerate(("reading", "grouping", "sampling"))}
    print("RESULT " + json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="folder of parquet files with shuffled rows in the Cendol schema")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 4_000_000, 12_810_390])
    parser.add_argument("--out", type=Path, default=Path("reports/bench/results.csv"))
    parser.add_argument("--side", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        run_side(str(args.corpus), args.side)
        return
    if not args.corpus or not args.corpus.is_dir():
        print("nothing is measured: --corpus names no folder of parquet files")
        return

    import pyarrow.parquet as pq

    found = []
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            some = Path(folder) / "corpus"
            some.mkdir()
            there = 0
            for file in sorted(args.corpus.glob("*.parquet")):
                if there < rows:
                    (some / file.name).symlink_to(file.resolve())
                    there += pq.read_metadata(file).num_rows
            if there < rows:
                print(f"{rows:,} rows are not measured: {args.corpus} has {there:,}")
                continue
            one = measure([sys.executable, __file__, "--corpus", str(some), "--side", folder])
        found.append(one)
        name, peer = f"scale, {one['rows']:.0f} rows", f"{found[0]['rows']:.0f} rows"
        metrics = [(step, one[step], "s") for step in ("seconds", "reading", "grouping", "sampling")]
        metrics += [("kept", one["kept"], "rows"), ("drawn", one["drawn"], "rows")]
        metrics.append(("peak memory", one["peak_mib"], "MiB"))
        metrics.append(("time, of as many times the least", _growth(one, found[0]), "x"))
        record(args.out, [(name, "ours", peer, *metric) for metric in metrics])
    held = all(one["peak_mib"] < MOST_MIB for one in found) and all(_growth(one, found[0]) <= 1 for one in found)
    print(f"{'holds' if held else 'FAILS'}: less than 2 GB, and no more than linear")


def _growth(one: dict[str, float], least: dict[str, float]) -> float:
    return one["seconds"] / least["seconds"] / (one["rows"] / least["rows"])


if __name__ == "__main__":
    main()
