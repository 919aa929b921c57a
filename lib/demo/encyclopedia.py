"""Short sections of an encyclopaedia, as in Cendol's `wikipedia_id`, made from tables of lasting facts."""

import csv
import re
import tomllib
import zlib
from pathlib import Path

from lib.demo.pairs import Language, Pair

TABLES = Path(__file__).parent / "tables"
PROMPTS_PER_SECTION = 5

# Prompt n of one language asks as prompt n of the other does. Every fourth is informal, and a section takes five
# neighbours, so that each section is asked for in both registers.
PROMPTS: dict[str, dict[Language, str]] = {
    "jelaskan": {"id": "Jelaskan tentang {topic}.", "en": "Explain {topic}."},
    "apa-yang-diketahui": {"id": "Apa yang kamu ketahui tentang {topic}?", "en": "What do you know about {topic}?"},
    "bagian-artikel": {
        "id": "Tuliskan satu bagian artikel tentang {topic}.",
        "en": "Write one section of an article about {topic}.",
    },
    "mau-tau": {"id": "gw mau tau soal {topic} dong", "en": "hey, i wanna know about {topic}"},
    "paragraf": {"id": "Buatlah paragraf singkat tentang {topic}.", "en": "Write a short paragraph about {topic}."},
    "ceritakan": {"id": "Tolong ceritakan tentang {topic}.", "en": "Please tell me about {topic}."},
    "informasi": {"id": "Berikan informasi mengenai {topic}.", "en": "Give information about {topic}."},
    "kasih-tau": {"id": "Kasih tau gue tentang {topic}.", "en": "Fill me in on {topic}."},
    "ensiklopedia": {
        "id": "Tulislah isi ensiklopedia tentang {topic}.",
        "en": "Write an encyclopedia entry about {topic}.",
    },
    "bisakah": {"id": "Bisakah Anda menjelaskan {topic}?", "en": "Could you explain {topic}?"},
    "uraikan": {"id": "Uraikan secara singkat {topic}.", "en": "Briefly describe {topic}."},
    "jelasin": {"id": "Eh, jelasin {topic} dong, singkat aja.", "en": "Hey, can you quickly explain {topic}?"},
}


def pairs(language: Language) -> list[Pair]:
    """Every section of every entity in five wordings, in the order of `facts_sections.toml` and of the tables.

    The key is table, entity and section ("negara:jepang/ibu_kota"). The wordings take the section's completions
    in turn, the same ones in both languages.
    """
    names = list(PROMPTS)
    rows = []
    for table, parts in sections().items():
        for fact in facts(table, language):
            for section, text in parts.items():
                key = f"{table}:{fact['key']}/{section}"
                topic = text[f"topic_{language}"].format_map(fact)
                start = zlib.crc32(key.encode())
                for step in range(PROMPTS_PER_SECTION):
                    wording = names[(start + step) % len(names)]
                    choice = (start // len(names) + step) % len(text[language])
                    completion = sentences(text[language][choice].format_map(fact))
                    rows.append(Pair(PROMPTS[wording][language].format(topic=topic), completion, key, wording))
    return rows


def sections() -> dict[str, dict[str, dict]]:
    """Table -> section -> `topic_id`, `topic_en` and the completions under `id` and `en`, as templates."""
    return tomllib.loads((TABLES / "facts_sections.toml").read_text(encoding="utf-8"))


def facts(table: str, language: Language) -> list[dict[str, str]]:
    """The rows of a fact table, with the columns of one language under their bare names ("title", not "title_id").

    Raises FileNotFoundError for a table that is not there.
    """
    rows = []
    with (TABLES / f"facts_{table}.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            shared = {name: text for name, text in row.items() if not name.endswith(("_id", "_en"))}
            own = {name[:-3]: text for name, text in row.items() if name.endswith(f"_{language}")}
            rows.append(shared | own)
    return rows


def sentences(text: str) -> str:
    """The text with a capital letter at the start of every sentence; what is already a capital stays."""
    return re.sub(r"(^|[.?!] )(\w)", lambda match: match[1] + match[2].upper(), text)
