"""Completions of 200 prompts, five each of 48 tokens: lib.model.generation against a plain loop over `model.generate`.

    python tests/benchmarks/bench_generation.py [--prompts 200] [--repeats 3] [--quick] [--out CSV]

The model is the demo's base model, the prompts are of the demo's corpus. Both sides sample with the model's generation
defaults and end at the end of a turn. The peer pads to the left, takes 8 prompts at a time in the order of the corpus,
and goes through them once for each of the five runs. Both write what they completed, and both sets are scored against
the corpus's outputs: the intervals of their BLEU over the five runs must overlap.
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
from harness import compare, record  # noqa: E402

PEER = "a loop over model.generate"
RUNS, TOKENS, PEER_BATCH = 5, 48, 8


def rows(count: int) -> list[dict[str, str]]:
    """`count` rows of the demo's corpus, of the six subsets alone, in the order of the corpus."""
    from lib.demo import generator

    known = generator.subsets("id")
    return [row for row in generator.rows() if row["subset_name"] in known][:count]


def ours(model: Any, tokenizer: Any, prompts: list[list[int]], ends: tuple[int, ...], folder: Path) -> list[list[str]]:
    from lib.model import generation

    path = folder / "ours.jsonl"
    path.unlink(missing_ok=True)
    generation.write_completions(
        model,
        tokenizer,
        dict(enumerate(prompts)),
        path,
        decoding=generation.decoding_of(model, ends[0], TOKENS),
        runs=RUNS,
        seed=0,
        batch_rows=64,
        settings={},
    )
    texts = [[""] * len(prompts) for _ in range(RUNS)]
    for line in generation.read_completions(path):
        texts[line["run"]][line["row"]] = line["text"]
    return texts


def plain(model: Any, tokenizer: Any, prompts: list[list[int]], ends: tuple[int, ...], _: Path) -> list[list[str]]:
    import torch

    tokenizer.padding_side = "left"
    texts: list[list[str]] = []
    for run in range(RUNS):
        torch.manual_seed(run)
        texts.append([])
        for start in range(0, len(prompts), PEER_BATCH):
            batch = tokenizer.pad({"input_ids": prompts[start : start + PEER_BATCH]}, return_tensors="pt")
            with torch.inference_mode():
                made = model.generate(**batch, do_sample=True, max_new_tokens=TOKENS, eos_token_id=list(ends))
            texts[-1] += tokenizer.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def run_side(side: str, count: int, folder: Path) -> None:
    """One side, in this process: its seconds from the loaded model to the texts, and the texts in a file."""
    from lib.config import Model, Prompt
    from lib.model import loading
    from lib.model.prompts import encode_prompt, end_of_turn_id, to_messages, to_sharegpt

    settings = Model(base_model="demo")
    model, tokenizer = loading.load_base(settings), loading.load_tokenizer(settings)
    if side == "peer":
        model.set_attn_implementation("sdpa")
    prompts = [
        encode_prompt(tokenizer, to_messages(to_sharegpt(row["input"], ""))[:1], Prompt(), 976)[0]
        for row in rows(count)
    ]
    complete = ours if side == "ours" else plain
    ends = (end_of_turn_id(tokenizer, Prompt()), tokenizer.convert_tokens_to_ids("<|end_of_text|>"))
    complete(model, tokenizer, prompts[:2], ends, folder)
    start = time.perf_counter()
    texts = complete(model, tokenizer, prompts, ends, folder)
    print("RESULT " + json.dumps({"seconds": time.perf_counter() - start}))
    (folder / f"{side}.json").write_text(json.dumps(texts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--corpus", help="taken for the sake of `make bench`; the demo's model knows the demo's corpus")
    parser.add_argument("--quick", action="store_true", help="40 prompts and one turn")
    parser.add_argument("--out", type=Path, default=Path("reports/bench/results.csv"))
    parser.add_argument("--side", choices=["ours", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    count = args.prompts or (40 if args.quick else 200)
    if args.side:
        run_side(args.side, count, args.folder)
        return

    from lib.evaluation import metrics
    from lib.evaluation.statistics import mean_interval

    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, __file__, "--prompts", str(count), "--folder", folder, "--side"]
        mine, peer = compare("generation", [*argv, "ours"], [*argv, "peer"], args.repeats or (1 if args.quick else 3))
        texts = {side: json.loads((Path(folder) / f"{side}.json").read_text()) for side in ("ours", "peer")}
    references = [row["output"] for row in rows(count)]
    intervals = {}
    lines = []
    for side, found in (("ours", mine), ("peer", peer)):
        mean, _, *intervals[side] = mean_interval(np.array([metrics.bleu(run, references)[0] for run in texts[side]]))
        lines.append(("generation", side, PEER, "time", found["seconds"], "s"))
        lines.append(("generation", side, PEER, "completions/s", count * RUNS / found["seconds"], "1/s"))
        lines.append(("generation", side, PEER, "peak memory", found["peak_mib"], "MiB"))
        lines.append(("generation", side, PEER, "mean BLEU of five runs", mean, "1"))
    lines.append(("generation", "ours", PEER, "speed ratio", peer["seconds"] / mine["seconds"], "x"))
    record(args.out, lines)
    if intervals["ours"][0] > intervals["peer"][1] or intervals["peer"][0] > intervals["ours"][1]:
        raise SystemExit(f"the sides score differently: 95 % intervals of BLEU {intervals}")


if __name__ == "__main__":
    main()
