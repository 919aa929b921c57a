"""Rows of the subsets that the pipeline leaves out, so that leaving them out is real work in the demo too."""

import tomllib
import zlib
from pathlib import Path

from lib.demo.pairs import Language, Pair

TABLES = Path(__file__).parent / "tables"
ACTIONS_PER_PERSON = 22


def pairs(language: Language) -> list[tuple[str, Pair]]:
    """Every row with the name of its subset: `mt_en_id`, `peribahasa`, `chitchat` and `xpersona_id`, in that order."""
    subsets = {
        "mt_en_id": translations(language),
        "peribahasa": proverbs(language),
        "chitchat": small_talk(language),
        "xpersona_id": personas(language),
    }
    return [(subset, pair) for subset, rows in subsets.items() for pair in rows]


def translations(language: Language) -> list[Pair]:
    """Simple sentences with their translation into `language`, each asked for in one way.

    Every person lacks a few of the actions, so that the sentences are not a full table of one by the other.
    """
    table = _table("translation")
    times, actions = list(table["time"]), list(table["action"])
    rows = []
    for person in table["person"]:
        start = zlib.crc32(person.encode())
        for step in range(ACTIONS_PER_PERSON):
            action = actions[(start + step) % len(actions)]
            key = f"{person}-{action}"
            choice = zlib.crc32(key.encode())
            time, number = times[choice % len(times)], choice // 16 % len(table["ask"]["id"])
            deed = table["action"][action]
            sentence = {
                tongue: f"{table['person'][person][tongue]} {deed[tongue]} {table['time'][time][tongue]} {why}."
                for tongue, why in (("id", f"karena {deed['why_id']}"), ("en", f"because {deed['why_en']}"))
            }
            source = sentence["en" if language == "id" else "id"]
            prompt = table["ask"][language][number].format(source=source)
            rows.append(Pair(prompt, sentence[language], key, f"translate-{number + 1}"))
    return rows


def proverbs(language: Language) -> list[Pair]:
    """What each proverb means, in every wording. The English twin has an English proverb where one is similar."""
    table = _table("proverbs")
    rows = []
    for key, entry in table["proverb"].items():
        text = entry[language]
        frames = zip(table["ask"][language], table["answer"][language], strict=True)
        for number, (ask, answer) in enumerate(frames, start=1):
            rows.append(Pair(ask.format_map(text), answer.format_map(text), key, f"meaning-{number}"))
    return rows


def small_talk(language: Language) -> list[Pair]:
    """Short talk about what one likes, what one did, and how one is."""
    table = _table("chitchat")
    rows = []
    for kind in ("likes", "did"):
        for key, entry in table[kind].items():
            text = entry[language]
            for number, ask in enumerate(table[f"{kind}_ask"][language], start=1):
                rows.append(Pair(ask.format_map(text), text["reply"], f"{kind}-{key}", f"{kind}-{number}"))
    for key, entry in table["whole"].items():
        for number, ask in enumerate(entry[language]["ask"], start=1):
            rows.append(Pair(ask, entry[language]["reply"], f"whole-{key}", f"whole-{number}"))
    return rows


def personas(language: Language) -> list[Pair]:
    """Replies that keep to a persona: the prompt tells who speaks and what the friend asks."""
    table = _table("personas")
    rows = []
    for name, speaker in table["speaker"].items():
        facts = {
            "town": speaker["town"],
            **speaker[language],
            **table["hobby"][speaker["hobby"]][language],
            **table["town"][speaker["town"]][language],
        }
        for subject, entry in table["question"].items():
            key = f"{name}-{subject}"
            number = zlib.crc32(key.encode()) % len(entry[language]["ask"])
            prompt = table["prompt"][language].format(question=entry[language]["ask"][number], **facts)
            rows.append(Pair(prompt, entry[language]["reply"].format_map(facts), key, f"{subject}-{number + 1}"))
    return rows


def _table(name: str) -> dict:
    return tomllib.loads((TABLES / f"others_{name}.toml").read_text(encoding="utf-8"))
