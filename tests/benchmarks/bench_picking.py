"""Choosing the next token (lib.model.generation.pick) against the decoding step of a model that it follows.

    python tests/benchmarks/bench_picking.py [--repeats 15] [--quick] [--out CSV]

320 sequences of a Llama of SmolLM2-135M's shape with random weights, and logits of 49,152 and 128,256 tokens: peaked
rows (standard deviation 4), flat ones (0.3), and peaked ones with one of equal logits among them. Steps and picks take
turns in one process. The peer's time is one greedy step of the model, which has 49,152 tokens.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from harness import record  # noqa: E402

PEER = "a decoding step of 135M parameters"
SEQUENCES, RUNS, PROMPT = 320, 5, 64
VOCABULARIES = (49_152, 128_256)
SPREADS = {"peaked": 4.0, "flat": 0.3, "one equal": 4.0}
#: top_p and top_k.
WAYS = {"all tokens": (1.0, 0), "top-p 0.9": (0.9, 0), "top-k 50": (1.0, 50), "top-k 50, top-p 0.9": (0.9, 50)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--corpus", help="taken for the sake of `make bench`; no text is read here")
    parser.add_argument("--quick", action="store_true", help="three turns")
    parser.add_argument("--out", type=Path, default=Path("reports/bench/results.csv"))
    args = parser.parse_args()
    repeats = args.repeats or (3 if args.quick else 15)

    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from lib import hardware
    from lib.model import attention, generation, loading

    where = hardware.device()
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=VOCABULARIES[0], hidden_size=576, intermediate_size=1_536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
        attn_implementation=attention.register(),
    )  # fmt: skip
    model = LlamaForCausalLM(shape).eval().to(where, loading.dtype())
    # As an evaluation has them: prompts of some length, each with its runs. One more step warms up.
    greedy = generation.Decoding(repeats * len(VOCABULARIES) * len(SPREADS) + 1, (), greedy=True)
    runs = [{(n, run): np.zeros(greedy.max_new_tokens) for run in range(RUNS)} for n in range(SEQUENCES // RUNS)]
    batch = generation.Batch(model)
    batch.add_prompts([[1] * PROMPT] * len(runs), runs, greedy)
    batch.step()
    lines = []
    for vocabulary in VOCABULARIES:
        for spread, deviation in SPREADS.items():
            logits = (torch.randn(SEQUENCES, vocabulary) * deviation).to(where, loading.dtype())
            if spread == "one equal":
                logits[0] = 0
            draws = torch.rand(SEQUENCES, dtype=torch.float64).to(where)
            steps: list[float] = []
            picks: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(repeats):
                start = time.perf_counter()
                batch.step()
                steps.append(time.perf_counter() - start)
                for way, (top_p, top_k) in WAYS.items():
                    decoding = generation.Decoding(1, (), temperature=0.6, top_p=top_p, top_k=top_k)
                    # On a GPU the time is that until the tokens are known.
                    start = time.perf_counter()
                    generation.pick(logits, draws, decoding).cpu()
                    picks[way].append(time.perf_counter() - start)
            step = statistics.median(steps)
            what = f"{vocabulary:,} {spread}"
            lines.append(("picking", "peer", PEER, f"time beside {what}", 1000 * step, "ms"))
            for way, found in picks.items():
                lines.append(("picking", "ours", PEER, f"time, {what}, {way}", 1000 * statistics.median(found), "ms"))
                share = 100 * statistics.median(found) / step
                lines.append(("picking", "ours", PEER, f"share of a step, {what}, {way}", share, "%"))
    record(args.out, lines)


if __name__ == "__main__":
    main()
