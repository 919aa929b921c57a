"""Everyday tasks of the demo corpus, each explained in numbered steps."""

import re
import tomllib
import zlib
from pathlib import Path

from lib.demo.pairs import Language, Pair

TABLES = Path(__file__).with_name("tables")


def pairs(language: Language) -> list[Pair]:
    """Return every task under each of six questions, answered once plainly and once with linked steps.

    `wording` is "question:1:plain" to "question:6:linked". The plain answer may open with one sentence; which
    tasks get one depends on the key alone. Keys, wordings and numbers of steps are the same in both languages.
    """
    tasks = tomllib.loads((TABLES / "howto_tasks.toml").read_text(encoding="utf-8"))
    words = tomllib.loads((TABLES / "howto_words.toml").read_text(encoding="utf-8"))
    made = []
    for name, entry in tasks.items():
        # A task without objects stands for itself.
        for thing, values in entry.get("objects", {"": {language: []}}).items():
            key = f"{name}:{thing}" if thing else name
            task, *steps = entry[language].strip().format(*values[language]).split("\n")
            answers = {
                "plain": _plain(key, task, steps, words["intro"][language]),
                "linked": _linked(key, steps, words["links"][language]),
            }
            for number, question in enumerate(words["questions"][language], start=1):
                for style, answer in answers.items():
                    made.append(Pair(question.format(task=task), answer, key, f"question:{number}:{style}"))
    return made


def _plain(key: str, task: str, steps: list[str], intro: str) -> str:
    # zlib.crc32 is the same in every process, which hash() of a string is not.
    opening = [intro.format(task=task)] if zlib.crc32(key.encode()) % 3 == 0 else []
    numbered = [f"{number}. {_variant(step, 1)}." for number, step in enumerate(steps, start=1)]
    return "\n".join(opening + numbered)


def _linked(key: str, steps: list[str], links: dict) -> str:
    shift = zlib.crc32(key.encode())
    middle = links["middle"]
    between = [middle[(shift + place) % len(middle)] for place in range(len(steps) - 2)]
    numbered = []
    for number, (link, step) in enumerate(zip([links["first"], *between, links["last"]], steps, strict=True), start=1):
        said = _variant(step, 2)
        numbered.append(f"{number}. {link} {said[0].lower()}{said[1:]}.")
    return "\n".join(numbered)


def _variant(step: str, side: int) -> str:
    """Say `step` with the first or the second of each bracketed pair."""
    return re.sub(r"\[([^|\]]*)\|([^\]]*)\]", lambda found: found[side], step)
