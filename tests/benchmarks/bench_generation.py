"""Completions of 200 prompts, five each of 48 tokens: lib.model.generation against a plain loop over `model.generate`.

    python tests/benchmarks/bench_generation.py [--corpus PATH] [--base-model demo] [--prompts 200] [--repeats 3]
        [--quick] [--out CSV]

The prompts are of the demo's corpus, or equally of each subset of another. Both sides sample with the model's
generation defaults and end at the end of a turn. The peer pads to the left, takes 8 prompts at a time in the order of
the corpus, and goes through them once for each of the five runs. Both write what they completed, and both sets are
scored against the corpus's outputs: the intervals of their BLEU over the five runs must overlap. Both also complete
every prompt greedily, outside the time that is measured; in 32 bits, which a CPU decodes in, nearly all texts are the
same.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from harness import compare, draw_rows, record  # noqa: E402

PEER = "a loop over model.generate"
RUNS, TOKENS, PEER_BATCH = 5, 48, 8


def asked(count: int, corpus: str, folder: Path) -> list[dict[str, str]]:
    """`count` rows of the six subsets: of the demo's corpus in its own order, of another equally from each subset."""
    from lib.demo import generator

    if corpus:
        return draw_rows(corpus, count, folder)[:count]
    known = generator.subsets("id")
    return [row for row in generator.rows() if row["subset_name"] in known][:count]


def ours(model: Any, tokenizer: Any, prompts: list[list[int]], end: int, greedy: bool, folder: Path) -> list[list[str]]:
    """The texts of each run, of which greedy completions have one."""
    from lib.model import generation

    path, runs = folder / "ours.jsonl", 1 if greedy else RUNS
    path.unlink(missing_ok=True)
    generation.write_completions(
        model,
        tokenizer,
        dict(enumerate(prompts)),
        path,
        decoding=generation.decoding_of(model, end, TOKENS, do_sample=not greedy),
        runs=runs,
        seed=0,
        batch_rows=64,
        settings={},
    )
    texts = [[""] * len(prompts) for _ in range(runs)]
    for line in generation.read_completions(path):
        texts[line["run"]][line["row"]] = line["text"]
    return texts


def plain(model: Any, tokenizer: Any, prompts: list[list[int]], end: int, greedy: bool, _: Path) -> list[list[str]]:
    """As `ours`."""
    import torch

    from lib.model import generation

    tokenizer.padding_side = "left"
    ends = list(generation.decoding_of(model, end, TOKENS).end_ids)
    texts: list[list[str]] = []
    for run in range(1 if greedy else RUNS):
        torch.manual_seed(run)
        texts.append([])
        for start in range(0, len(prompts), PEER_BATCH):
            batch = tokenizer.pad({"input_ids": prompts[start : start + PEER_BATCH]}, return_tensors="pt")
            with torch.inference_mode():
                made = model.generate(**batch, do_sample=not greedy, max_new_tokens=TOKENS, eos_token_id=ends)
            texts[-1] += tokenizer.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def run_side(side: str, base_model: str, folder: Path) -> None:
    """One side, in this process: its seconds from the loaded model to the texts, and the texts in a file."""
    from lib.config import Model, Prompt
    from lib.model import loading
    from lib.model.prompts import encode_prompt, end_of_turn_id, to_messages, to_sharegpt

    settings = Model(base_model)
    model, tokenizer = loading.load_base(settings), loading.load_tokenizer(settings)
    if side == "peer":
        model.set_attn_implementation("sdpa")
    prompts = [
        encode_prompt(tokenizer, to_messages(to_sharegpt(row["input"], ""))[:1], Prompt(), 976)[0]
        for row in json.loads((folder / "rows.json").read_text())
    ]
    complete, end = ours if side == "ours" else plain, end_of_turn_id(tokenizer, Prompt())
    greedy = complete(model, tokenizer, prompts, end, True, folder)
    start = time.perf_counter()
    texts = complete(model, tokenizer, prompts, end, False, folder)
    print("RESULT " + json.dumps({"seconds": time.perf_counter() - start}))
    (folder / f"{side}.json").write_text(json.dumps({"greedy": greedy[0], "runs": texts}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--corpus", default="", help="the demo's without it")
    parser.add_argument("--base-model", default="demo", help="demo, or a folder")
    parser.add_argument("--quick", action="store_true", help="40 prompts and one turn")
    parser.add_argument("--out", type=Path, default=Path("reports/bench/results.csv"))
    parser.add_argument("--side", choices=["ours", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        run_side(args.side, args.base_model, args.folder)
        return

    from lib.evaluation import metrics
    from lib.evaluation.statistics import mean_interval

    label = f"generation, {args.base_model}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn = asked(args.prompts or (40 if args.quick else 200), args.corpus, folder)
        (folder / "rows.json").write_text(json.dumps(drawn))
        argv = [sys.executable, __file__, "--base-model", args.base_model, "--folder", name, "--side"]
        mine, peer = compare("generation", [*argv, "ours"], [*argv, "peer"], args.repeats or (1 if args.quick else 3))
        made = {side: json.loads((folder / f"{side}.json").read_text()) for side in ("ours", "peer")}
    references = [row["output"] for row in drawn]
    intervals = {}
    lines = []
    for side, found in (("ours", mine), ("peer", peer)):
        scores = np.array([metrics.bleu(run, references)[0] for run in made[side]["runs"]])
        mean, _, *intervals[side] = mean_interval(scores)
        lines.append((label, side, PEER, "time", found["seconds"], "s"))
        lines.append((label, side, PEER, "completions/s", len(drawn) * RUNS / found["seconds"], "1/s"))
        lines.append((label, side, PEER, "peak memory", found["peak_mib"], "MiB"))
        lines.append((label, side, PEER, "mean BLEU of five runs", mean, "1"))
    same = sum(a == b for a, b in zip(made["ours"]["greedy"], made["peer"]["greedy"], strict=True))
    lines.append((label, "ours", PEER, "equal greedy completions", same / len(drawn), ""))
    lines.append((label, "ours", PEER, "speed ratio", peer["seconds"] / mine["seconds"], "x"))
    record(args.out, lines)
    if intervals["ours"][0] > intervals["peer"][1] or intervals["peer"][0] > intervals["ours"][1]:
        raise SystemExit(f"the sides score differently: 95 % intervals of BLEU {intervals}")


if __name__ == "__main__":
    main()
