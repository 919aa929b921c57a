"""Training steps on a corpus's lengths: this project's packed rows against plain TRL, which pads.

    python tests/benchmarks/bench_training.py [--corpus PATH] [--base-model demo|FOLDER|llama-1b]
        [--tokenizer FOLDER] [--longest 2048] [--steps 24] [--repeats 3] [--quick] [--out CSV]

The examples are drawn as row 5 draws them, equally from each subset, and read by the base model's tokenizer; both sides
train on the same ones in the same order, 8 a step, through TRL's SFTTrainer with the same LoRA+ optimizer: this
project's side as `lib.training.trainer` trains with `training.dtype = "fastest"`, the peer's in 32 bits on a CPU.
Tokens are counted without padding. The losses of the first steps must agree. `llama-1b` is Llama 3.2 1B's shape with
random weights, whose examples the tokenizer of --tokenizer reads: it measures speed and memory, and no quality. The
ceiling that a step is told in is that of one matrix product in the same precision: a large one on a GPU, and on a CPU
that of the model's own longest sides with as many tokens as a step reads at once.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from harness import compare, draw_rows, record  # noqa: E402

from lib.allocator import keep_pages  # noqa: E402

PEER = "TRL with padding"
BATCH = 8
ROWS_OF_ROW_5 = 10_000
LLAMA_1B = {
    "vocab_size": 128_256, "hidden_size": 2_048, "intermediate_size": 8_192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131_072,
    "rope_theta": 500_000.0, "tie_word_embeddings": True,
}  # fmt: skip


def examples(corpus: str, tokenizer_of: str, longest: int, count: int, folder: Path) -> list[dict[str, list[int]]]:
    """`count` encoded examples, equally from each subset and in a seeded order."""
    from lib.config import Model, Prompt
    from lib.demo import generator
    from lib.model import loading
    from lib.model.prompts import encode_example, to_messages, to_sharegpt

    if not corpus:
        corpus = str(folder / "demo.jsonl.gz")
        generator.write(Path(corpus))
    tokenizer = loading.load_tokenizer(Model(tokenizer_of))
    made = []
    for row in draw_rows(corpus, count, folder):
        example = encode_example(tokenizer, to_messages(to_sharegpt(row["input"], row["output"])), Prompt(), longest)
        if example:
            labels = [i if keep else -100 for i, keep in zip(example.input_ids, example.loss_mask, strict=True)]
            made.append({"input_ids": list(example.input_ids), "labels": labels})
    return made[:count]


def load(base_model: str, side: str) -> Any:
    """The base model with a fresh adapter, each side with its own attention and precision."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from lib import hardware
    from lib.config import Lora, Model, Training
    from lib.model import attention, loading
    from lib.training import backend

    dtype = backend.precision(Training(dtype="fastest")) if side == "ours" else loading.dtype()
    torch.manual_seed(0)
    if base_model == "llama-1b":
        attention.register()
        shape = LlamaConfig(**LLAMA_1B, attn_implementation=attention.NAME)
        with torch.device(hardware.device()):
            base = LlamaForCausalLM(shape).to(dtype)
    else:
        base = loading.load_base(Model(base_model), dtype)
    if side == "peer":
        base.set_attn_implementation("sdpa")
    return loading.attach_lora(base, Lora())


def run_side(side: str, base_model: str, steps: int, folder: Path) -> None:
    """Train, in this process, and tell real tokens a second, the losses, peak memory and seconds a step."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from lib import hardware
    from lib.config import Lora, Training
    from lib.model import loading
    from lib.model.attention import PackedCollator
    from lib.training import loraplus
    from lib.training.parts import TrainerInParts

    rows = json.loads((folder / "examples.json").read_text())
    gpu = hardware.device().type == "cuda"
    model = load(base_model, side)
    pad = 0

    def padded(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in batch)
        fill = [longest - len(row["input_ids"]) for row in batch]
        return {
            "input_ids": torch.tensor([row["input_ids"] + [pad] * n for row, n in zip(batch, fill, strict=True)]),
            "labels": torch.tensor([row["labels"] + [-100] * n for row, n in zip(batch, fill, strict=True)]),
            "attention_mask": torch.tensor([[1] * (longest - n) + [0] * n for n in fill]),
        }

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter())

    trainer = (TrainerInParts if side == "ours" and not gpu else SFTTrainer)(
        model=model,
        train_dataset=Dataset.from_list(rows[: steps * BATCH]),
        data_collator=PackedCollator(share_beginning=True) if side == "ours" else padded,
        optimizers=(loraplus.optimizer(model, Lora(), Training(backend="peft")), None),
        args=SFTConfig(
            output_dir=str(folder / side),
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            train_sampling_strategy="sequential",
            bf16=loading.dtype() == torch.bfloat16,
            fp16=loading.dtype() == torch.float16,
            gradient_checkpointing=gpu,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            loss_type="chunked_nll" if side == "ours" else "nll",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=gpu,
        ),
        callbacks=[Clock()],
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    # The first step warms up.
    seconds = times[-1] - times[0]
    tokens = sum(len(row["input_ids"]) for row in rows[BATCH : steps * BATCH])
    found = {"seconds": seconds, "tokens_per_second": tokens / seconds, "first_loss": losses[0]}
    if gpu:
        found["gpu_peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    # Two a weight forwards and two back to the activations: a frozen weight has no gradient of its own. The head's
    # count for the tokens that are trained.
    layers = sum(w.numel() for name, w in model.named_parameters() if name.endswith("base_layer.weight"))
    head = model.get_output_embeddings().weight.numel()
    trained = sum(label != -100 for row in rows[BATCH : steps * BATCH] for label in row["labels"])
    found["model_flops"] = 4 * (layers * tokens + head * trained) / seconds
    found["ceiling"] = ceiling(model)
    print("RESULT " + json.dumps(found))


def ceiling(model: Any) -> float:
    """Floating-point operations a second of one matrix product in the precision of a model's frozen weights."""
    import torch

    from lib import hardware
    from lib.training.backend import PART_TOKENS

    device = hardware.device()
    gpu, dtype = device.type == "cuda", model.get_output_embeddings().weight.dtype
    rows, inner, columns = (
        (8_192,) * 3 if gpu else (PART_TOKENS, model.config.hidden_size, model.config.intermediate_size)
    )
    a, b = torch.randn(rows, inner, device=device, dtype=dtype), torch.randn(inner, columns, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        a @ b
        if gpu:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * rows * inner * columns / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="", help="the demo's without it")
    parser.add_argument("--base-model", default="demo", help="demo, a folder, or llama-1b for its shape alone")
    parser.add_argument("--tokenizer", default="", help="the base model's without it; the demo's for llama-1b")
    parser.add_argument("--longest", type=int, default=2_048, help="tokens of an example, at most")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--quick", action="store_true", help="4 steps and one turn")
    parser.add_argument("--out", type=Path, default=Path("reports/bench/results.csv"))
    parser.add_argument("--side", choices=["ours", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    steps = args.steps or (4 if args.quick else 24)
    if args.side == "ours":
        keep_pages()
    if args.side:
        run_side(args.side, args.base_model, steps, args.folder)
        return
    import torch

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer_of = args.tokenizer or ("demo" if args.base_model == "llama-1b" else args.base_model)
        made = examples(args.corpus, tokenizer_of, args.longest, steps * BATCH, folder)
        (folder / "examples.json").write_text(json.dumps(made))
        argv = [sys.executable, __file__, "--base-model", args.base_model, "--steps", str(steps), "--folder", name]
        sides = [*argv, "--side", "ours"], [*argv, "--side", "peer"]
        mine, peer = compare("training", *sides, args.repeats or (1 if args.quick else 3))
    if abs(mine["first_loss"] - peer["first_loss"]) > 1e-2 * peer["first_loss"]:
        raise SystemExit(f"error: the losses differ: {mine['first_loss']} and {peer['first_loss']}")
    label = f"training, {args.base_model}"
    rows = []
    for side, found in (("ours", mine), ("peer", peer)):
        rows += [
            (label, side, PEER, "tokens a second", found["tokens_per_second"], "1/s"),
            (label, side, PEER, "loss of the first step", found["first_loss"], "nats"),
            (label, side, PEER, "share of the matrix product", found["model_flops"] / found["ceiling"], ""),
            (label, side, PEER, "matrix product", found["ceiling"] / 1e9, "GFLOP/s"),
        ]
        if torch.cuda.is_available():
            rows.append((label, side, PEER, "peak memory of the GPU", found["gpu_peak_gib"], "GiB"))
            tokens = sum(len(row["input_ids"]) for row in made) / len(made) * ROWS_OF_ROW_5 * 5
            rows.append((label, side, PEER, "row 5 at that rate", tokens / found["tokens_per_second"] / 3_600, "h"))
        else:
            rows.append((label, side, PEER, "peak memory", found["peak_mib"], "MiB"))
    rows.append((label, "ours", PEER, "speed ratio", mine["tokens_per_second"] / peer["tokens_per_second"], "x"))
    record(args.out, rows)
    if not torch.cuda.is_available():
        print("No GPU is here: nothing was measured on one.")


if __name__ == "__main__":
    main()
