"""The demo's corpus: rows in Cendol's schema, repeated as upstream repeats them, with an English twin."""

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

from lib.demo import encyclopedia, howto, identity, others, poems, questions, safety
from lib.demo.pairs import Language, Pair
from lib.storage import whole

#: Upstream copies each identity and safety row 500 times; a smaller corpus repeats them in proportion.
IDENTITY_COPIES = 20
SAFETY_COPIES = 12


def subsets(language: Language) -> dict[str, list[Pair]]:
    """The distinct pairs of each of the six subsets."""
    return {
        "indo_puisi": poems.pairs(language),
        "wikihow": howto.pairs(language),
        "wikipedia_id": encyclopedia.pairs(language),
        "safety_prompt": safety.pairs(language),
        "identity_prompt": identity.pairs(language),
        "dolly": questions.pairs(language),
    }


def rows(language: Language = "id", seed: int = 0) -> list[dict[str, str]]:
    """All rows of the corpus in Cendol's schema, shuffled by the seed; some are of subsets that a study leaves out."""
    copies = {"identity_prompt": IDENTITY_COPIES, "safety_prompt": SAFETY_COPIES}
    made = [
        _row(subset, pair, repeated=subset in copies)
        for subset, pairs in subsets(language).items()
        for pair in pairs
        for _ in range(copies.get(subset, 1))
    ]
    made += [_row(subset, pair, repeated=False) for subset, pair in others.pairs(language)]
    random.Random(seed).shuffle(made)
    return made


def write(path: Path, language: Language = "id", seed: int = 0) -> None:
    """Write the corpus as jsonl.gz, the same bytes for the same seed."""
    with whole(path) as temporary, temporary.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as file:
        for line in _lines(rows(language, seed)):
            file.write(line)


def _lines(made: list[dict[str, str]]) -> Iterator[bytes]:
    for row in made:
        yield (json.dumps(row, ensure_ascii=False) + "\n").encode()


def _row(subset: str, pair: Pair, repeated: bool) -> dict[str, str]:
    return {
        "dataset_name": "klepon_demo",
        "subset_name": subset,
        # Upstream's repeated rows carry the subset's name in all three places.
        "prompt_id": subset if repeated else f"{pair.key}#{pair.wording}",
        "template_name": subset if repeated else pair.wording,
        "dataset_key": subset if repeated else "train",
        "input": pair.prompt,
        "output": pair.completion,
    }
