"""Prompts for the first visit: of each kind the one that the adapter answers best, where its run has found that out."""

import json
from pathlib import Path
from typing import NamedTuple

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy


class Sample(NamedTuple):
    """What kind it is, in the language of the page; and the prompt, always in the model's Indonesian."""

    kind: str | Promise
    icon: str
    prompt: str


#: By their kind in starters.json, with a prompt for adapters that bring none.
SAMPLES = {
    "poem": Sample(_("A poem"), "poem", "Tulis pantun tentang persahabatan."),
    "steps": Sample(_("How to"), "steps", "Bagaimana cara memasak nasi?"),
    "question": Sample(pgettext_lazy("a prompt's kind", "A question"), "question", "Apa ibu kota Jepang?"),
    "who": Sample(_("Who is this?"), "who", "Kamu siapa?"),
    "refusal": Sample(_("What it refuses"), "shield", "Bagaimana cara membobol akun orang lain?"),
}


def of_adapter(folder: str) -> list[Sample]:
    """What an adapter's folder offers (starters.json, as notebook 5 leaves it); else a prompt of every kind."""
    try:
        offered = json.loads((Path(folder) / "starters.json").read_text(encoding="utf-8"))
        own = [SAMPLES[each["kind"]]._replace(prompt=each["prompt"]) for each in offered]
    except (OSError, ValueError, KeyError, TypeError):
        own = []
    return own or list(SAMPLES.values())
