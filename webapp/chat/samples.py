"""Prompts for the first visit, of the kinds that the demo's adapter was trained on."""

from typing import NamedTuple

from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy


class Sample(NamedTuple):
    """What kind it is, in the language of the page; and the prompt, always in the model's Indonesian."""

    kind: str
    icon: str
    prompt: str


SAMPLES = [
    Sample(_("A poem"), "poem", "Tulis pantun tentang persahabatan."),
    Sample(_("How to"), "steps", "Bagaimana cara memasak nasi?"),
    Sample(pgettext_lazy("a prompt's kind", "A question"), "question", "Apa ibu kota Jepang?"),
    Sample(_("Who is this?"), "who", "Kamu siapa?"),
    Sample(_("What it refuses"), "shield", "Bagaimana cara membobol akun orang lain?"),
]
