"""Requests that the assistant declines, as in Cendol's `safety_prompt`: each refusal fits what was asked."""

import tomllib
import zlib
from pathlib import Path

from lib.demo.pairs import Language, Pair

TABLES = Path(__file__).parent / "tables"
PROMPTS_PER_ITEM = 3


def pairs(language: Language) -> list[Pair]:
    """Every declined request in three wordings, in the order of the table.

    The key is the topic and the item ("hacking-wifi"). A refusal names what was asked, the reason and an alternative.
    """
    frames = tomllib.loads((TABLES / "safety_frames.toml").read_text(encoding="utf-8"))
    rows = []
    for topic, entry in topics().items():
        for name, item in entry["item"].items():
            key, text = f"{topic}-{name}", item[language]
            if "ask" in text:
                wordings = [f"own-{number}" for number in range(1, len(text["ask"]) + 1)]
                asks, answer = text["ask"], text["answer"]
            else:
                register = item["register"]
                frame = frames[register][language]
                # The same frames in both languages, so that a wording names the same way of asking.
                choice = zlib.crc32(key.encode())
                numbers = [(choice + step) % len(frame["ask"]) for step in range(PROMPTS_PER_ITEM)]
                wordings = [f"{register}-{number + 1}" for number in numbers]
                asks = [frame["ask"][number].format(act=text["act"]) for number in numbers]
                answer = frame["answer"][choice // 8 % len(frame["answer"])].format_map(text)
            rows += [Pair(ask, answer, key, wording) for ask, wording in zip(asks, wordings, strict=True)]
    return rows


def topics() -> dict[str, dict]:
    """The table of topics: name -> `words` (of which every refusal has one, per language) and `item`."""
    return tomllib.loads((TABLES / "safety_topics.toml").read_text(encoding="utf-8"))
