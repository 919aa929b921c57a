"""Select the six subsets out of a large corpus: `lib.corpus.selection` against `datasets`' load_dataset and filter.

    python tests/benchmarks/bench_corpus.py --corpus FOLDER_OF_PARQUET

Each side runs in a fresh process, alternating, with an empty `datasets` cache; the clock covers the call and not the
imports. Both sides leave their selection on the disk. Peak memory is ru_maxrss of the process. The memory of four
times the corpus is measured on a folder that links every file four times.
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import harness

ROOT = Path(__file__).parents[2]
SIDES = ("ours", "peer")
PEER = "datasets.load_dataset + filter"
# Rows of each subset in the Cendol Collection v2; the rest of its 12,810,390 rows belong to other subsets.
REAL = {
    "indo_puisi": 144_460,
    "wikihow": 97_848,
    "wikipedia_id": 6_069_267,
    "safety_prompt": 93_500,
    "identity_prompt": 62_500,
    "dolly": 75_055,
    "other": 6_267_760,
}


def write_synthetic(folder: Path, rows: int, shard: int = 250_000) -> None:
    """Parquet shards of made-up words: about 100 characters of input and 500 of output, in the real proportions."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    choice = random.Random(0)
    words = ["".join(choice.choices("aiueonktrsmgbdpl", k=choice.randint(2, 10))) for _ in range(20_000)]
    subsets = choice.choices(list(REAL), weights=list(REAL.values()), k=rows)
    for start in range(0, rows, shard):
        part = subsets[start : start + shard]
        columns = {
            "dataset_name": ["made_up"] * len(part),
            "subset_name": part,
            "prompt_id": [f"{start + n:032x}" for n in range(len(part))],
            "template_name": [f"{subset}_{n % 20}" for n, subset in enumerate(part)],
            "dataset_key": ["train"] * len(part),
            "input": [" ".join(choice.choices(words, k=15)) for _ in part],
            "output": [" ".join(choice.choices(words, k=choice.randint(5, 140))) for _ in part],
        }
        pq.write_table(pa.table(columns), folder / f"train-{start // shard:05d}.parquet")


def run_side(side: str, folder: str) -> dict[str, float]:
    """Run one side in this process, with an empty cache. Returns its seconds, processor seconds and rows kept."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(HF_DATASETS_CACHE=scratch, HF_HUB_OFFLINE="1")
        if side == "ours":
            sys.path.insert(0, str(ROOT))
            from lib.corpus import selection

            start, busy = time.perf_counter(), time.process_time()
            kept = sum(selection.select(folder, Path(scratch, "selected.parquet")).kept.values())
        else:
            import datasets

            files = sorted(str(path) for path in Path(folder).glob("**/*.parquet"))
            wanted = set(REAL) - {"other"}
            start, busy = time.perf_counter(), time.process_time()
            whole = datasets.load_dataset("parquet", data_files=files, split="train")
            kept = len(whole.filter(lambda row: row["subset_name"] in wanted))
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - busy
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "rows_kept": kept}


def command(side: str, folder: Path) -> list[str]:
    return [sys.executable, __file__, "--side", side, "--corpus", str(folder)]


def link_times(folder: Path, times: int, destination: Path) -> None:
    for path in sorted(folder.glob("**/*.parquet")):
        for copy in range(times):
            (destination / f"{copy}-{path.name}").symlink_to(path.resolve())


def bench(folder: Path, rounds: int, large: int = 4) -> list[tuple[str, str, str, str, float, str]]:
    """The tidy rows of the comparison on `folder`, and our memory on `large` times that folder."""
    ours, theirs = harness.compare("corpus", command("ours", folder), command("peer", folder), rounds)
    if ours["rows_kept"] != theirs["rows_kept"]:
        raise SystemExit(f"the sides keep different numbers of rows: {ours['rows_kept']} and {theirs['rows_kept']}")
    with tempfile.TemporaryDirectory() as many:
        link_times(folder, large, Path(many))
        larger = harness.measure(command("ours", Path(many)))
    figures = [
        (side, metric, found[metric], unit)
        for side, found in [("ours", ours), ("peer", theirs)]
        for metric, unit in [("seconds", "s"), ("cpu_seconds", "s"), ("peak_mib", "MiB"), ("rows_kept", "rows")]
    ]
    figures.append(("ours", "speedup", theirs["seconds"] / ours["seconds"], "x"))
    figures.append(("ours", f"peak_mib_{large}_times_the_rows", larger["peak_mib"], "MiB"))
    return [("corpus", side, PEER, metric, value, unit) for side, metric, value, unit in figures]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="folder of parquet files; without it, made-up rows are used")
    parser.add_argument("--rows", type=int, default=1_000_000, help="made-up rows, if no corpus is given")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side")
    parser.add_argument("--quick", action="store_true", help="one run of each side, and 100,000 made-up rows")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "bench" / "results.csv")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print("RESULT", json.dumps(run_side(args.side, str(args.corpus))))
        return
    rounds, rows = (1, min(args.rows, 100_000)) if args.quick else (args.rounds, args.rows)
    if args.corpus:
        tidy = bench(args.corpus, rounds)
    else:
        print(f"No --corpus: {rows:,} made-up rows in the Cendol Collection's proportions are used.", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            # A child's ru_maxrss starts from its parent's memory, so the rows are made in a process of their own.
            maker = multiprocessing.get_context("spawn").Process(target=write_synthetic, args=(Path(folder), rows))
            maker.start()
            maker.join()
            tidy = bench(Path(folder), rounds)
    harness.record(args.out, tidy)


if __name__ == "__main__":
    main()
