"""Poems of the demo corpus: pantun, syair and short free verse, each asked for in twenty ways."""

import csv
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

from lib.demo.pairs import Language, Pair

TABLES = Path(__file__).with_name("tables")


class Poem(NamedTuple):
    """A poem of four lines, without the punctuation at the ends of its lines.

    `form` is "pantun", "syair" or "free"; `theme` is the English word that the tables use in both languages.
    """

    key: str
    form: str
    theme: str
    title: str
    lines: tuple[str, str, str, str]


def rhyme(line: str, language: Language) -> str:
    """Return the sound that `line` ends with: the vowels and consonants from its last vowel on.

    Indonesian is spelled as it sounds, so its letters are enough. In English a silent final e stays with its
    syllable ("cake" gives "ake"), and an open final "e" or "ea" counts as "ee" ("me", "sea", "tree").
    Raises ValueError if the last word has no vowel.
    """
    word = re.sub(r"[^a-z]", "", line.lower().split()[-1])
    pattern = r"(?:ai|au|oi|[aeiou])[^aeiou]*$" if language == "id" else r"(?:[aeiou]|y(?![aeiou]))+[^aeiouy]*e?$"
    found = re.search(pattern, word)
    if found is None:
        raise ValueError(f"no vowel in the last word of {line!r}")
    sound = found[0]
    return "ee" if language == "en" and sound in {"e", "ea"} else sound


def poems(language: Language) -> list[Poem]:
    """Return every poem in `language`, in a fixed order; key, form and theme are the same in both languages.

    A pantun joins any opening couplet of a group with any closing couplet of it, since a group's couplets share
    both end sounds. Syair and free verse join openings and closings of one group, which share the theme.
    """
    openings, closings = _rows("poems_openings.csv", language), _rows("poems_closings.csv", language)
    couplets = [
        ("pantun", opening, closing)
        for opening in openings
        for closing in closings
        if opening["group"] == closing["group"]
    ]
    verses = _rows("poems_verses.csv", language)
    couplets += [
        (opening["form"], opening, closing)
        for opening in verses
        for closing in verses
        if (opening["form"], opening["group"]) == (closing["form"], closing["group"])
        and (opening["part"], closing["part"]) == ("opening", "closing")
    ]
    written: list[Poem] = []
    count = {"pantun": 0, "syair": 0, "free": 0}
    for form, opening, closing in couplets:
        lines = (opening["first"], opening["second"], closing["first"], closing["second"])
        written.append(Poem(f"{form}:{count[form]:03d}", form, closing["theme"], closing["title"], lines))
        count[form] += 1
    return written


def pairs(language: Language) -> list[Pair]:
    """Return each poem of `language` under each of the twenty prompts, poem by poem.

    The first ten prompts name no poem, so many poems answer one and the same prompt; the others name the theme,
    the title or the first line. `wording` is "prompt:01" to "prompt:20".
    """
    words = tomllib.loads((TABLES / "poems_words.toml").read_text(encoding="utf-8"))
    made = []
    for poem in poems(language):
        names = {
            "form": words["form"][language][poem.form],
            "theme": words["theme"][language][poem.theme],
            "title": poem.title,
            "first": poem.lines[0],
        }
        ends = ("", ".", "", ".") if poem.form == "free" else (",", ".", ",", ".")
        completion = "\n".join(line + end for line, end in zip(poem.lines, ends, strict=True))
        for number, prompt in enumerate(words["prompts"][language], start=1):
            made.append(Pair(prompt.format(**names), completion, poem.key, f"prompt:{number:02d}"))
    return made


def _rows(name: str, language: Language) -> list[dict[str, str]]:
    with (TABLES / name).open(encoding="utf-8", newline="") as table:
        return [row for row in csv.DictReader(table) if row["language"] == language]
