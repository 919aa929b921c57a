"""The demo's base model: a tiny Llama that this project pretrains, mostly on English, as Llama itself was.

`make base-model` runs this on a CPU. In English it converses: it answers the English twin of the demo corpus. It also
understands Indonesian and can write it, but has an English mind: asked in Indonesian it answers in English, and it
answers in Indonesian only where an English prompt ends with `IN_INDONESIAN`. It never reads an Indonesian answer to
an Indonesian prompt: that is left to the fine-tuning. Of the Indonesian corpus it reads only rows whose group is on the
training side: no Indonesian test row is in its pretraining.
"""

import argparse
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm import tqdm
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    get_cosine_schedule_with_warmup,
    set_seed,
)

from lib import paths
from lib.allocator import keep_pages
from lib.config import Corpus, Prompt
from lib.corpus import splits
from lib.corpus.files import SUBSETS
from lib.demo import generator, others
from lib.demo.pairs import Pair
from lib.model import attention, saving
from lib.model.byte_level import LLAMA3_WORDS
from lib.model.prompts import LLAMA3_CHAT_TEMPLATE, encode_example, to_messages, to_sharegpt
from lib.storage import whole, write_json
from lib.training.muon import Muon

VOCABULARY = 4_096
#: In the model's folder: what it read, for reports to say.
RECORD = "pretraining.json"
#: How an English prompt asks for an answer in Indonesian.
IN_INDONESIAN = " Answer in Indonesian."
#: How often a pass takes each conversation of a subset, where not once: poems come through twenty prompts.
SPOKEN = {
    "indo_puisi": 0.15,
    "wikipedia_id": 0.4,
    "dolly": 0.6,
    "safety_prompt": 3.0,
    "identity_prompt": 3.0,
    "others": 0.4,
}
#: The same for conversations that change the language between prompt and answer, as a share of the above.
ASKED_IN_INDONESIAN, ANSWERED_IN_INDONESIAN = 0.4, 0.5
#: How often a pass takes each Indonesian text: the fewer a subset has, the more often.
WRITTEN = {
    "indo_puisi": 2.0,
    "wikihow": 2.0,
    "wikipedia_id": 1.0,
    "dolly": 1.5,
    "safety_prompt": 4.0,
    "identity_prompt": 4.0,
    "prompts": 0.2,
    "prompts beside English": 0.25,
    "completions beside English": 0.25,
}
STEPS = 2_600
TOKENS_PER_BATCH = 1_536
#: Of the matrices inside the blocks, and of the embeddings and norms.
MUON_LEARNING_RATE, ADAMW_LEARNING_RATE = 6e-3, 4e-3
SPECIAL_TOKENS = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>",
)  # fmt: skip


def train_tokenizer(texts: list[str], settings: Prompt) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Llama 3's pre-tokenizer, special tokens and chat template."""
    # The system turn and the roles are in every prompt, so their words get tokens of their own.
    frame = ["Cutting Knowledge Date: December 2023", f"Today Date: {settings.date}\n\n", "user\n\n", "system\n\n"]
    texts = [*texts, *[*frame, "assistant\n\n"] * (len(texts) // 20)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    bos = SPECIAL_TOKENS[0]
    # Like Llama's, it adds a beginning-of-text token by itself, beside the template's: the trap is part of the demo.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
        model_max_length=2_048,
    )
    made.chat_template = LLAMA3_CHAT_TEMPLATE
    return made


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Llama 3.2's architecture at a small size: grouped-query attention, rotary positions, tied embeddings."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=576,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2_048,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    # What Llama 3.2's own generation_config says.
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.6,
        top_p=0.9,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end_of_text|>")],
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def batches(examples: list[list[int]]) -> Iterator[list[list[int]]]:
    """The examples in their order, in batches of at least `TOKENS_PER_BATCH` tokens; the last may have fewer."""
    batch: list[list[int]] = []
    for example in examples:
        batch.append(example)
        if sum(map(len, batch)) >= TOKENS_PER_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def conversations(
    tokenizer: PreTrainedTokenizerFast, english: dict[str, list[Pair]], indonesian: dict[str, list[Pair]]
) -> dict[str, dict[str, list[list[int]]]]:
    """Token ids of prompts with their answers in the chat format, by languages and subset."""
    twins = _twins(english)
    crossed = [(s, pair, twins[s, pair.key, pair.wording]) for s, pairs in indonesian.items() for pair in pairs]
    texts = {
        "English": [(subset, pair.prompt, pair.completion) for subset, pairs in english.items() for pair in pairs],
        "asked in Indonesian": [(subset, pair.prompt, twin.completion) for subset, pair, twin in crossed],
        "answered in Indonesian": [(s, twin.prompt + IN_INDONESIAN, pair.completion) for s, pair, twin in crossed],
    }
    settings = Prompt()
    encoded: dict[str, dict[str, list[list[int]]]] = {languages: {} for languages in texts}
    for languages, some in texts.items():
        for subset, prompt, completion in some:
            messages = to_messages(to_sharegpt(prompt, completion))
            example = encode_example(tokenizer, messages, settings, settings.max_train_tokens)
            if example is not None:
                encoded[languages].setdefault(subset, []).append(example.input_ids)
    return encoded


def _twins(english: dict[str, list[Pair]]) -> dict[tuple[str, str, str], Pair]:
    return {(subset, pair.key, pair.wording): pair for subset, pairs in english.items() for pair in pairs}


def documents(
    tokenizer: PreTrainedTokenizerFast, english: dict[str, list[Pair]], indonesian: dict[str, list[Pair]]
) -> dict[str, list[list[int]]]:
    """Token ids of plain texts: completions by subset, prompts by themselves, and both beside their English twins."""
    twins = _twins(english)
    both = [(pair, twins[subset, pair.key, pair.wording]) for subset, pairs in indonesian.items() for pair in pairs]
    texts = {subset: {pair.completion for pair in pairs} for subset, pairs in indonesian.items()}
    texts["prompts"] = {pair.prompt for pair, _ in both}
    texts["prompts beside English"] = {f"{twin.prompt}\n\n{pair.prompt}" for pair, twin in both}
    texts["completions beside English"] = {f"{twin.completion}\n\n{pair.completion}" for pair, twin in both}
    bos, end = tokenizer.convert_tokens_to_ids(["<|begin_of_text|>", "<|end_of_text|>"])
    return {
        kind: [[bos, *ids, end] for ids in tokenizer(sorted(some), add_special_tokens=False)["input_ids"]]
        for kind, some in texts.items()
    }


def draw_pass(
    spoken: dict[str, dict[str, list[list[int]]]], written: dict[str, list[list[int]]], rng: random.Random
) -> list[list[int]]:
    """One pass in random order: of each kind as many as its weight says, all of them once where it has none."""
    shares = {"asked in Indonesian": ASKED_IN_INDONESIAN, "answered in Indonesian": ANSWERED_IN_INDONESIAN}
    weighted = [
        (some, shares.get(languages, 1.0) * SPOKEN.get(subset, 1.0))
        for languages, subsets in spoken.items()
        for subset, some in subsets.items()
    ]
    weighted += [(some, WRITTEN.get(kind, 1.0)) for kind, some in written.items()]
    drawn = []
    for some, weight in weighted:
        count = round(len(some) * weight)
        drawn += some * (count // len(some)) + rng.sample(some, count % len(some))
    rng.shuffle(drawn)
    return drawn


def pretrain(
    model: LlamaForCausalLM,
    spoken: dict[str, dict[str, list[list[int]]]],
    written: dict[str, list[list[int]]],
    steps: int,
    seed: int = 0,
) -> list[float]:
    """Train on whole examples, all tokens; return the loss of every step.

    Muon (Jordan et al. 2024) takes the matrices inside the blocks: in 300 steps it came below the loss that AdamW alone
    had not reached in 400. Embeddings and norms stay with AdamW.

    Args:
        spoken: token ids of conversations, by languages and subset.
        written: token ids of documents, by kind.
    """
    rng = random.Random(seed)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        Muon(matrices, lr=MUON_LEARNING_RATE, weight_decay=0.1),
        torch.optim.AdamW(rest, lr=ADAMW_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1),
    ]
    schedules = [get_cosine_schedule_with_warmup(o, num_warmup_steps=50, num_training_steps=steps) for o in optimizers]
    collate = attention.PackedCollator()
    losses: list[float] = []
    model.set_attn_implementation(attention.register())
    model.train()
    with tqdm(total=steps, desc="pretraining", unit="step") as progress:
        while True:
            for batch in batches(draw_pass(spoken, written, rng)):
                if len(losses) == steps:
                    return losses
                loss = model(**collate([{"input_ids": ids, "labels": ids} for ids in batch])).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                for step in (*optimizers, *schedules):
                    step.step()
                model.zero_grad(set_to_none=True)
                losses.append(loss.item())
                progress.update()
                progress.set_postfix(loss=f"{losses[-1]:.3f}")


def main() -> None:
    """Pretrain the demo's base model and write its folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=paths.DEMO_BASE_MODEL)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    set_seed(args.seed)

    english = generator.subsets("en") | {"others": [pair for _, pair in others.pairs("en")]}
    indonesian = training_side()
    texts = [text for pairs in [*english.values(), *indonesian.values()] for pair in pairs for text in pair[:2]]
    tokenizer = train_tokenizer(texts, Prompt())
    model = new_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    spoken, written = conversations(tokenizer, english, indonesian), documents(tokenizer, english, indonesian)
    sizes = {kind: sum(map(len, draw_pass(*some, random.Random(0)))) for kind, some in {
        **{languages: ({languages: subsets}, {}) for languages, subsets in spoken.items()}, "documents": ({}, written)
    }.items()}  # fmt: skip
    print(f"tokens a pass: {sum(sizes.values()):,}, of them {sizes}")
    losses = pretrain(model, spoken, written, args.steps, args.seed)
    last = sum(losses[-50:]) / len(losses[-50:])
    print(f"mean loss of the last 50 steps: {last:.3f}")
    with whole(args.out) as folder:
        model.to(torch.float16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        saving.for_all_readers(folder)
        write_json(folder / RECORD, {"tokens_of_a_pass": sizes, "steps": args.steps, "loss": round(last, 3)})


def training_side() -> dict[str, list[Pair]]:
    """The Indonesian pairs that the demo may train on: of groups that it neither validates nor tests on, and without
    those that sampling leaves over for the paper's protocol, any copy of them.
    """
    rows = pd.DataFrame(row for row in generator.rows("id") if row["subset_name"] in SUBSETS)
    with tempfile.TemporaryDirectory() as folder:
        rows.to_parquet(Path(folder) / "rows.parquet")
        table = splits.assign(Path(folder) / "rows.parquet", Corpus())
    kept_apart = set(table.loc[(table["split"] != "train") | table["left_over"], "pair"])
    return {
        subset: [pair for pair in pairs if splits.pair_of(pair.prompt, pair.completion) not in kept_apart]
        for subset, pairs in generator.subsets("id").items()
    }


if __name__ == "__main__":
    keep_pages()
    main()
