"""Short questions and instructions of many kinds, as in Cendol's `dolly`: five wordings of every item."""

import tomllib
import zlib

from lib.demo.encyclopedia import TABLES, facts, sentences
from lib.demo.pairs import Language, Pair

NAMES = ["Budi", "Siti", "Andi", "Dewi", "Rina", "Joko", "Putri", "Agus", "Maya", "Tono"]
ITEMS: dict[Language, list[str]] = {
    "id": ["apel", "buku", "pensil", "telur", "mangga", "bola"],
    "en": ["apples", "books", "pencils", "eggs", "mangoes", "balls"],
}
NUMBERS: dict[Language, list[str]] = {
    "id": ["nol", "satu", "dua", "tiga", "empat", "lima", "enam", "tujuh", "delapan", "sembilan", "sepuluh", "sebelas",
           "dua belas", "tiga belas", "empat belas", "lima belas", "enam belas", "tujuh belas", "delapan belas"],
    "en": ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
           "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"],
}  # fmt: skip
GROUPS: dict[str, dict[Language, str]] = {
    "buah": {"id": "buah", "en": "a fruit"},
    "hewan": {"id": "hewan", "en": "an animal"},
    "kendaraan": {"id": "kendaraan", "en": "a vehicle"},
}


def pairs(language: Language) -> list[Pair]:
    """Every item of every kind in five wordings, in the order of `facts_questions.toml`.

    The key is kind and item ("ibu_kota:jepang"), the wording is the number of the prompt template ("1" to "5"), and
    where a kind has several wordings of its answer, the prompts take them in turn, the same ones in both languages.
    """
    computed = {"tambah": sums, "kurang": sums, "pilih": choices, "bacaan": passages, "banding": comparisons}
    rows = []
    for kind, text in kinds().items():
        for fact in facts(text["table"], language) if "table" in text else computed[kind](language):
            key = f"{kind}:{fact['key']}"
            for number, template in enumerate(text[f"ask_{language}"], 1):
                choice = (zlib.crc32(key.encode()) + number) % len(text[language])
                prompt = template.format_map(fact)
                # The informal prompt, the fourth, keeps the small letter that people begin with when they chat.
                if number != 4:
                    prompt = sentences(prompt)
                rows.append(Pair(prompt, sentences(text[language][choice].format_map(fact)), key, str(number)))
    return rows


def kinds() -> dict[str, dict]:
    """Kind -> `table` (if its facts are in one), five prompts `ask_id` and `ask_en`, answers `id` and `en`."""
    return tomllib.loads((TABLES / "facts_questions.toml").read_text(encoding="utf-8"))


def sums(language: Language) -> list[dict[str, str]]:
    """Forty sums a + b = c in words, all numbers from 2 to 18, each with a person and a thing in the plural."""
    rows = []
    for index in range(40):
        # Every pair of numbers from 2 to 9 comes at most once: 64 pairs, of which every third one is taken.
        a, b = 2 + index * 3 % 64 // 8, 2 + index * 3 % 8
        words = {name: NUMBERS[language][number] for name, number in (("a", a), ("b", b), ("c", a + b))}
        item = ITEMS[language][index % len(ITEMS[language])]
        rows.append({"key": str(index + 1), "name": NAMES[index % len(NAMES)], "item": item, **words})
    return rows


def choices(language: Language) -> list[dict[str, str]]:
    """Forty-five questions about which of three things is a fruit, an animal or a vehicle; the answer's place moves."""
    tables = {name: facts(name, language) for name in [*GROUPS, "benda"]}
    column, last = ("title", "atau") if language == "id" else ("a", "or")
    rows = []
    for number in range(15):
        for place, (group, name) in enumerate(GROUPS.items()):
            others = [table for table in tables if table != group]
            first, second = others[number % 3], others[(number + 1) % 3]
            answer = tables[group][number][column]
            options = [tables[first][(number + place + 4) % 15][column], tables[second][(number + 2) % 15][column]]
            options.insert((number + place) % 3, answer)
            # Indonesian has a comma before the last word of a list, British English has none.
            comma = "," if language == "id" else ""
            listed = f"{options[0]}, {options[1]}{comma} {last} {options[2]}"
            key = f"{group}-{number + 1}"
            rows.append({"key": key, "group": name[language], "options": listed, "answer": answer})
    return rows


def passages(language: Language) -> list[dict[str, str]]:
    """Every profession in a passage of two sentences about a person who has it."""
    rows = []
    for index, fact in enumerate(facts("profesi", language)):
        name = NAMES[index % len(NAMES)]
        if language == "id":
            text = f"{name} adalah seorang {fact['title']}. Dia memakai {fact['tool']} untuk {fact['does']}."
        else:
            text = f"{name} is {fact['a']}. {name} uses {fact['tool']} to {fact['does']}."
        rows.append({**fact, "name": name, "passage": text})
    return rows


def comparisons(language: Language) -> list[dict[str, str]]:
    """Thirty pairs of animals that are eleven rows apart in their table, the second one's columns ending in 2."""
    animals = facts("hewan", language)
    return [
        {**first, "key": f"{first['key']}-{second['key']}", **{f"{name}2": text for name, text in second.items()}}
        for first, second in zip(animals[:30], animals[11:41], strict=True)
    ]
