"""Scores of 50,000 pairs, each and all: lib.evaluation.metrics against a call of rouge_score and of sacreBLEU a pair.

    python tests/benchmarks/bench_scoring.py [--corpus CORPUS] [--pairs 50000] [--quick] [--out CSV]

The pairs are as an evaluation's: each reference stands beside five completions, which here are other outputs of the
corpus, clipped to 48 words. Without --corpus the outputs are those of the demo's corpus. Both sides run in one process
each. The peer calls RougeScorer.score, BLEU.sentence_score and CHRF.sentence_score once a pair; ours gives the same
values of every pair, and the corpus's besides. All values must be equal to the last digit, the corpus's to
sacreBLEU's corpus_score, which is no part of the peer's time.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from harness import compare, record  # noqa: E402

PEER = "rouge_score + sacreBLEU, a call a pair"
RUNS, WORDS = 5, 48


def corpus_outputs(source: str | None, count: int) -> list[str]:
    """Outputs of `count` rows drawn at random, from the demo's corpus or from one that lib.corpus can read."""
    from lib.corpus import selection
    from lib.demo import generator

    with tempfile.TemporaryDirectory() as folder:
        if not source:
            source = str(Path(folder, "demo.jsonl.gz"))
            generator.write(Path(source))
        selected = Path(folder, "rows.parquet")
        summary = selection.select(source, selected)
        rows = np.random.default_rng(0).choice(sum(summary.kept.values()), size=count)
        return selection.read(selected, rows, columns=["output"])["output"].tolist()


def make_pairs(outputs: list[str], rows: int) -> tuple[list[str], list[str]]:
    """Completions and references of `rows` rows and all runs, from rows * (RUNS + 1) outputs."""
    return [" ".join(output.split()[:WORDS]) for output in outputs[rows:]], outputs[:rows] * RUNS


def ours(completions: list[str], references: list[str]) -> dict[str, np.ndarray]:
    """Every metric's value of each pair, and the corpus's at the end."""
    from lib.evaluation import metrics

    found = {name: np.append(v, v.mean()) for name, v in metrics.rouge_each(completions, references).items()}
    bleu, chrf = (count(completions, references) for count in (metrics.bleu_statistics, metrics.chrf_statistics))
    found["bleu"] = np.array([metrics.bleu_of(sums) for sums in (*bleu, bleu.sum(axis=0))])
    found["chrf"] = np.array([metrics.chrf_of(sums) for sums in (*chrf, chrf.sum(axis=0))])
    return found


def plain(completions: list[str], references: list[str]) -> dict[str, np.ndarray]:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU, CHRF

    rouge, bleu, chrf = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False), BLEU(), CHRF(word_order=2)
    # It would warn of every sentence that effective_order is off.
    logging.getLogger("sacrebleu").setLevel(logging.ERROR)
    rows = []
    for completion, reference in zip(completions, references, strict=True):
        values = [100 * score.fmeasure for score in rouge.score(reference, completion).values()]
        values.append(bleu.sentence_score(completion, [reference]).score)
        values.append(chrf.sentence_score(completion, [reference]).score)
        rows.append(values)
    return dict(zip(["rouge1", "rouge2", "rougeL", "bleu", "chrf"], np.array(rows).T, strict=True))


def with_corpus_scores(
    found: dict[str, np.ndarray], completions: list[str], references: list[str]
) -> dict[str, np.ndarray]:
    """The peer's values of each pair, and the corpus's at the end."""
    from sacrebleu.metrics import BLEU, CHRF

    whole = {name: values.mean() for name, values in found.items()}
    whole["bleu"] = BLEU().corpus_score(completions, [references]).score
    whole["chrf"] = CHRF(word_order=2).corpus_score(completions, [references]).score
    return {name: np.append(values, whole[name]) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", help="a file, glob or folder of parquet or jsonl in the Cendol schema")
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--quick", action="store_true", help="1,000 pairs and one turn")
    parser.add_argument("--out", type=Path, default=Path("reports/bench/results.csv"))
    parser.add_argument("--side", choices=["ours", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()

    if args.side:
        completions, references = json.loads((args.folder / "pairs.json").read_text())
        # The libraries are loaded before the clock starts.
        score = ours if args.side == "ours" else plain
        score(completions[:2], references[:2])
        start, busy = time.perf_counter(), time.process_time()
        found = score(completions, references)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - busy
        print("RESULT " + json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds}))
        np.savez(args.folder / f"{args.side}.npz", **found)
        return

    test_rows = (args.pairs or (1_000 if args.quick else 50_000)) // RUNS
    if not args.corpus:
        print("no --corpus: the texts are the demo corpus's")
    completions, references = make_pairs(corpus_outputs(args.corpus, test_rows * (RUNS + 1)), test_rows)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pairs.json").write_text(json.dumps([completions, references]))
        argv = [sys.executable, __file__, "--folder", folder, "--side"]
        mine, peer = compare("scoring", [*argv, "ours"], [*argv, "peer"], args.repeats or (1 if args.quick else 3))
        sides = {side: dict(np.load(Path(folder) / f"{side}.npz")) for side in ("ours", "peer")}
    for name, values in with_corpus_scores(sides["peer"], completions, references).items():
        wrong = np.flatnonzero(values != sides["ours"][name])
        if wrong.size:
            raise SystemExit(f"{name} differs in {wrong.size:,} of {len(values):,} values, first in place {wrong[0]}")
    rows = []
    for side, found in (("ours", mine), ("peer", peer)):
        rows.append(("scoring", side, PEER, "pairs", len(references), "pairs"))
        rows.append(("scoring", side, PEER, "time", found["seconds"], "s"))
        rows.append(("scoring", side, PEER, "processor time", found["cpu_seconds"], "s"))
        rows.append(("scoring", side, PEER, "peak memory", found["peak_mib"], "MiB"))
    rows.append(("scoring", "ours", PEER, "distinct references", len(set(references)), "texts"))
    rows.append(("scoring", "ours", PEER, "distinct completions", len(set(completions)), "texts"))
    rows.append(
        ("scoring", "ours", PEER, "mean words of a reference", np.mean([len(r.split()) for r in references]), "1")
    )
    rows.append(("scoring", "ours", PEER, "speed ratio", peer["seconds"] / mine["seconds"], "x"))
    rows.append(("scoring", "ours", PEER, "processor time ratio", peer["cpu_seconds"] / mine["cpu_seconds"], "x"))
    record(args.out, rows)


if __name__ == "__main__":
    main()
