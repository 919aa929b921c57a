"""By what a server shows that it has an adapter and its base model: how both rate a few reference answers.

Beside the final adapter, `references.json` holds these answers as token ids, with the log-probability of each token by
the base model and by the adapter, and how the base model decodes by itself. A client can then check a server without
loading either.
"""

import gc
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lib.config import Config, Model, Prompt
from lib.model import generation, loading
from lib.model.generation import Decoding
from lib.model.packaged import sha256
from lib.model.prompts import Example, encode_example, end_of_turn_id, to_messages, to_sharegpt
from lib.paths import REFERENCES
from lib.storage import write_json

#: Prompts with answers, this project's own: what is kept beside an adapter, and published with it, is no corpus text.
PAIRS = (
    ("Apa ibu kota Indonesia?", "Ibu kota Indonesia adalah Jakarta, yang terletak di pesisir utara Pulau Jawa."),
    (
        "Tulislah dua baris tentang hujan.",
        "Hujan turun pelan di halaman,\nmembawa pulang bau tanah yang kurindukan.",
    ),
    ("Bagaimana cara menanak nasi?", "Cuci beras, tambahkan air, lalu masak dengan api kecil sampai airnya habis."),
    ("Berapa hasil 7 ditambah 5?", "Hasilnya 12, karena 7 ditambah 3 adalah 10, dan masih ada 2 lagi."),
    ("Bolehkah saya minum obat milik orang lain?", "Sebaiknya jangan. Tanyakan dulu kepada dokter atau apoteker."),
    ("Why is the sky blue?", "Air scatters blue light more than red light, so blue reaches us from every direction."),
)
#: How far, in nats a token on average, two ways of storing or computing one model may be apart. Measured on the demo,
#: with 32 prompts of each of two seeds: weights rounded to bfloat16 differ by 0.008 to 0.009 nats, and computing in
#: bfloat16 too by 0.017 to 0.019; an adapter merged with 0.9 of its scale by 0.06, one taken for not rank-stabilised by
#: 0.51, and the base model alone by 0.7. The bound is between those.
MOST_DIFFERENCE = 0.05
#: An adapter that changes the answers by at least so many nats a token shows how much of it is applied: rounding alone
#: leaves that share within a tenth of 1 (or of 0, where it is not applied at all).
LEAST_EFFECT, SHARE, NOTHING = 0.02, 0.25, 0.1


@dataclass(frozen=True)
class Reference:
    """One prompt and its answer, as token ids, and the log-probability (nats) of each token of the answer."""

    prompt: list[int]
    answer: list[int]
    base: list[float]
    adapter: list[float] | None = None
    """None where no adapter was asked."""


@dataclass(frozen=True)
class References:
    """What is known of an adapter and its base model, or of the base model alone."""

    answers: list[Reference]
    decoding: Decoding
    """The base model's own defaults, for one token."""


def measure(config: Config, adapter: Path | None) -> References:
    """What the models here say; they are loaded, one after the other.

    Raises:
        loading.ModelError: if one of them cannot be.
    """
    made_of = (loading.base_fingerprint(config.model), loading.fingerprint(adapter) if adapter else "")
    return _measured(config.model, config.prompt, adapter, made_of)


# An evaluation asks for several kinds of completions, and each time for its server.
@lru_cache(maxsize=2)
def _measured(settings: Model, prompt: Prompt, adapter: Path | None, made_of: tuple[str, str]) -> References:
    tokenizer = loading.load_tokenizer(settings)
    examples = _examples(tokenizer, prompt)
    model = loading.load_base(settings)
    decoding = generation.decoding_of(model, end_of_turn_id(tokenizer, prompt), 1)
    base = [_rated(model, example) for example in examples]
    # Two copies of a large model may be more than there is room for.
    del model
    gc.collect()
    tuned: Sequence[list[float] | None] = [None] * len(examples)
    if adapter:
        model = loading.load_adapter(settings, adapter)
        tuned = [_rated(model, example) for example in examples]
    answers = []
    for example, before, after in zip(examples, base, tuned, strict=True):
        start = example.loss_mask.index(1)
        answers.append(Reference(example.input_ids[:start], example.input_ids[start:], before, after))
    return References(answers, decoding)


def write(config: Config) -> Path:
    """Measure the final adapter and leave what was found beside it."""
    folder = config.paths.final_adapter
    found = measure(config, folder)
    write_json(folder / REFERENCES, {"weights": sha256(_weights(folder)), **asdict(found)})
    return folder / REFERENCES


def read(folder: Path) -> References | None:
    """What is known of the adapter in a folder; None where nothing is, or where it is of other weights."""
    try:
        known = json.loads((folder / REFERENCES).read_text(encoding="utf-8"))
        if known["weights"] != sha256(_weights(folder)):
            return None
        decoding = Decoding(**known["decoding"] | {"end_ids": tuple(known["decoding"]["end_ids"])})
        return References([Reference(**one) for one in known["answers"]], decoding)
    # There is none, or it is not what this module writes.
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _weights(folder: Path) -> Path:
    return folder / "adapter_model.safetensors"


def _examples(tokenizer: PreTrainedTokenizerBase, settings: Prompt) -> list[Example]:
    encoded = [
        encode_example(tokenizer, to_messages(to_sharegpt(prompt, answer)), settings, settings.max_evaluation_tokens)
        for prompt, answer in PAIRS
    ]
    return [example for example in encoded if example is not None]


def _rated(model: PreTrainedModel, example: Example) -> list[float]:
    found = distributions(model, example)
    answer = torch.tensor(example.input_ids, device=found.device)[-len(found) :]
    return [round(value, 5) for value in found.gather(-1, answer.unsqueeze(-1)).squeeze(-1).tolist()]


@torch.inference_mode()
def distributions(model: PreTrainedModel | PeftModel, example: Example) -> torch.Tensor:
    """The log-probabilities (nats) of all tokens at each place of an example's answer, (tokens, vocabulary)."""
    ids = torch.tensor([example.input_ids], device=model.device)
    answer = torch.tensor(example.loss_mask[1:], dtype=torch.bool, device=model.device)
    # The logits at a position are for the token after it.
    logits: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, :-1][answer]
    return logits.float().log_softmax(-1)


def judge(said: Sequence[Sequence[float]], known: Sequence[Reference], target: Literal["base", "adapter"]) -> str:
    """Why what was said of the answers was not said by this model; empty where it may well have been.

    Args:
        said: the log-probabilities of each answer's tokens.
        known: of the model that is meant. An adapter that hardly changes anything cannot be told from its base.
    """
    told, base = _joined(said), _joined([one.base for one in known])
    tuned = _joined([one.adapter or one.base for one in known])
    effect = tuned - base
    # Written so that a NaN does not pass.
    off = float(np.abs(told - (base if target == "base" else tuned)).mean())
    share = float((told - base) @ effect / (effect @ effect)) if effect.any() else 1.0
    size = float(np.abs(effect).mean())
    shows = size >= LEAST_EFFECT
    wanted = 0.0 if target == "base" else 1.0
    if off <= MOST_DIFFERENCE and (not shows or abs(share - wanted) <= SHARE):
        return ""
    # How well "so much of the adapter" says it.
    near = float(np.abs(told - base - share * effect).mean()) <= max(MOST_DIFFERENCE, 0.3 * size)
    if shows and near and target == "adapter" and abs(share) <= NOTHING:
        return "answers as the base model does: the adapter is not applied"
    if shows and near and target == "adapter" and share < 1 - SHARE:
        return (
            f"applies about {share:.2f} of the adapter: it scales it otherwise (rank-stabilised scaling may be ignored)"
        )
    if shows and near and target == "base" and abs(share - 1) <= SHARE:
        return "answers as the adapter does, and not as the base model"
    return (
        f"rates the reference answers differently from the model here, by {off:.3f} nats a token on average, where "
        f"rounding explains {MOST_DIFFERENCE}"
    )


def _joined(parts: Sequence[Sequence[Any]]) -> np.ndarray:
    return np.concatenate([np.asarray(part, dtype=float) for part in parts])
