"""Questions about the assistant itself, as in Cendol's `identity_prompt`: few rows, asked in three registers."""

import tomllib
from pathlib import Path

from lib.demo.pairs import Language, Pair

TABLE = Path(__file__).parent / "tables" / "identity_answers.toml"


def pairs(language: Language) -> list[Pair]:
    """Every question about the assistant with its answer, in the order of the table.

    The key is the subject and its register ("name-slang"), since an answer belongs to both; two wordings share it.
    """
    subjects = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return [
        Pair(prompt, entry[language]["answer"], f"{subject}-{register}", f"{register}-{number}")
        for subject, registers in subjects.items()
        for register, entry in registers.items()
        for number, prompt in enumerate(entry[language]["ask"], start=1)
    ]
