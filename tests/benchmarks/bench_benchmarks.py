"""The four benchmarks on one model: lib.evaluation.harness's batching against the harness's own, on the same model.

    python tests/benchmarks/bench_benchmarks.py [--base-model smollm2] [--names "lindsea copal_id xcopa_id nusax"]
        [--repeats 1] [--out CSV]

Needs the benchmarks' files, which are fetched where they are not here. Both sides use the model as lib loads it, and
are timed from the tasks to the items. The peer is lm_eval's HFLM in batches of 8. Every verdict must be equal.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from harness import compare, record  # noqa: E402

PEER = "lm_eval's HFLM in batches of 8"


def run_side(side: str, base_model: str, names: list[str], out: Path) -> None:
    """Score every task once; print the seconds of each and of all."""
    from lm_eval.models.huggingface import HFLM

    from lib.config import Model
    from lib.evaluation import benchmarks, harness
    from lib.model import loading

    if side == "peer":
        harness.Scorer = lambda model, tokenizer, _: HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
    settings = Model(base_model=base_model)
    model, tokenizer = loading.load_base(settings), loading.load_tokenizer(settings)
    seconds, items, busy = {}, [], time.process_time()
    for name in names:
        for task, made in benchmarks.of_repository(name).items():
            start = time.perf_counter()
            items.append(harness.score(model, tokenizer, {task: made}, task))
            seconds[task] = time.perf_counter() - start
    found = {"seconds": sum(seconds.values()), "processor seconds": time.process_time() - busy}
    pd.concat(items).to_parquet(out, index=False)
    print("RESULT " + json.dumps(seconds | found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", default="demo")
    parser.add_argument("--names", default="lindsea copal_id xcopa_id nusax")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("reports/bench/results.csv"))
    parser.add_argument("--corpus", help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=["ours", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--items", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        run_side(args.side, args.base_model, args.names.split(), args.items)
        return

    from lib.corpus.fetching import FetchError
    from lib.evaluation import benchmarks

    try:
        for name in args.names.split():
            benchmarks.fetch(name)
    except FetchError as error:
        print(f"nothing is measured: {error}")
        return
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, __file__, "--base-model", args.base_model, "--names", args.names, "--side"]
        sides = [[*argv, side, "--items", str(Path(folder, side))] for side in ("ours", "peer")]
        mine, peer = compare("benchmarks", sides[0], sides[1], args.repeats)
        one, other = (pd.read_parquet(Path(folder, side)) for side in ("ours", "peer"))
    apart = [np.abs(a - b).max() for a, b in zip(one["loglikelihoods"], other["loglikelihoods"], strict=True)]
    if not one["correct"].equals(other["correct"]):
        raise SystemExit("FAILS: a verdict differs")
    rows = [("benchmarks", "ours", PEER, "largest difference of a log-likelihood", max(apart), "nats")]
    for task in (name for name in mine if name != "peak_mib"):
        rows += [("benchmarks", side, PEER, task, found[task], "s") for side, found in (("ours", mine), ("peer", peer))]
    for what, name in (("speed ratio", "seconds"), ("processor time ratio", "processor seconds")):
        rows.append(("benchmarks", "ours", PEER, what, peer[name] / mine[name], "x"))
    record(args.out, rows)


if __name__ == "__main__":
    main()
