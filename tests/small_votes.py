"""Made-up votes: on prompts that have no word in common, always for the answer in Indonesian."""

import json
import random

SYLLABLES = ["ba", "ce", "di", "fo", "gu", "ha", "ji", "ku", "lo", "ma", "ne", "pi", "ra", "su", "to", "wi", "ya", "zu"]
CHOSEN = "Saya adalah asisten yang siap membantu Anda kapan saja."
REJECTED = "I am a helpful assistant, and ready to help."


def prompt(number: int) -> str:
    drawn = random.Random(number)
    return " ".join("".join(drawn.choices(SYLLABLES, k=4)) for _ in range(5)) + "?"


def vote(number: int, chosen: str = CHOSEN, rejected: str = REJECTED, asked: str | None = None) -> dict:
    """As webapp/chat/exports.py writes it."""
    return {
        "prompt": [{"role": "user", "content": asked or prompt(number)}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "choice": "adapter",
        "left": "base",
        "seed": number,
        "model": "demo",
        "adapter_sha": "a" * 64,
        "voted": "2026-11-29T12:00:00+00:00",
    }


def write(path, made: list[dict]):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in made), encoding="utf-8")
    return path
