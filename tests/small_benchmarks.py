"""Four benchmarks of a few made-up items, in repositories that stand for the public ones."""

import csv
import hashlib
import io
import json
import subprocess
from pathlib import Path

from lib.corpus.fetching import Pin
from lib.corpus.sources import Published

WHO = ("-c", "user.name=Penguji", "-c", "user.email=penguji@example.org")
NAMES = ("Tini", "Budi", "Sari", "Joko", "Rina", "Dewi", "Agus", "Wati")
CAUSES = [
    {
        "premise": f"{name} tidur di jendela sepanjang sore.",
        "choice1": f"{name} bangun sebelum fajar menyingsing.",
        "choice2": "Hujan turun di atas atap seng.",
        "question": ("cause", "effect")[n % 2],
        "idx": n,
        "label": n % 2,
    }
    for n, name in enumerate(NAMES)
]
#: Some of them hold what a table of letters and a template could trip over.
REVIEWS = [
    {
        "indonesian": f'Kata {name}, "nasi goreng" di sini {{{{ enak }}}}, terima kasih banyak!',
        "english": f"{name} says the [fried rice] is good,\nthanks a lot",
        "javanese": "ora",
    }
    for name in NAMES
]


def pairs(kind: str) -> list[dict]:
    return [
        {
            "id": n,
            "linguistic_phenomenon": kind,
            "correct": f"{name} membeli buku di kota {kind}",
            "wrong": f"Membeli {name} buku di kota {kind}",
        }
        for n, name in enumerate(NAMES[: 3 + len(kind) % 4])
    ]


def _jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _csv(rows: list[dict]) -> str:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, rows[0])
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


FILES = {
    "lindsea": {
        f"lindsea/id/syntax/{name}.jsonl": _jsonl(pairs(name))
        for name in ("morphology", "argument_structure", "filler-gap_dependencies", "NPIs_and_negation")
    },
    "copal_id": {"data/v1/test_copal.csv": _csv(CAUSES), "data/v1/test_copal_colloquial.csv": _csv(CAUSES[:5])},
    "xcopa_id": {"data/id/test.id.jsonl": _jsonl(CAUSES[2:])},
    "nusax": {"datasets/mt/test.csv": _csv(REVIEWS)},
}


def serve(folder: Path) -> tuple[Published, ...]:
    """The repositories below a folder, and the table that names them."""
    made = []
    for name, files in FILES.items():
        repository = folder / "someone" / name
        repository.mkdir(parents=True)
        for path, text in files.items():
            (repository / path).parent.mkdir(parents=True, exist_ok=True)
            (repository / path).write_bytes(text.encode())
        for words in (["init", "-q"], ["add", "-A"], [*WHO, "commit", "-qm", "items"]):
            subprocess.run(["git", "-C", repository, *words], check=True)
        asked = ["git", "-C", repository, "rev-parse", "HEAD"]
        commit = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
        made.append(
            Published(
                name=name,
                repository=repository.as_uri(),
                commit=commit,
                licence="CC-BY-4.0",
                stated="LICENSE",
                attribution="Penguji",
                files=tuple(
                    Pin(path, len(text.encode()), hashlib.sha256(text.encode()).hexdigest())
                    for path, text in files.items()
                ),
            )
        )
    return tuple(made)
