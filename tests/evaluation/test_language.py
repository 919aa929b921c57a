import subprocess
import sys

import numpy as np
import pytest

from lib.demo import generator
from lib.evaluation import language
from lib.evaluation.language import english_share, identify, indonesian_share

INDONESIAN = [
    "Maaf, saya tidak dapat membantu Anda membuat sesuatu yang berbahaya.",
    "Kereta berangkat pukul tujuh pagi dari stasiun di tengah kota.",
    "Aku lagi nggak di rumah, nanti malam aku kabari lagi ya.",
]
ENGLISH = [
    "I am sorry, I cannot help you with anything that is dangerous.",
    "The train leaves at seven in the morning from the middle of town.",
]
OTHERS = {
    "jv": "Bocah-bocah dolanan bal ing lapangan saben sore karo kanca-kancane.",
    "de": "Der Hund schläft den ganzen Tag unter dem Tisch in der Küche.",
    "es": "Los niños juegan en el parque después de la escuela.",
    "tl": "Ang mga bata ay naglalaro sa labas ng bahay tuwing hapon.",
}
MALAY = "Kerajaan akan mengumumkan belanjawan baharu pada hari Jumaat ini."


def first_words(texts, count):
    return [" ".join(text.split()[:count]) for text in texts]


@pytest.mark.parametrize(("words", "least"), [(48, 0.98), (8, 0.95)])
@pytest.mark.parametrize(("demo", "share"), [("id", indonesian_share), ("en", english_share)])
def test_nearly_every_completion_of_the_demo_is_known_by_its_language(demo, share, words, least):
    completions = {pair.completion for pairs in generator.subsets(demo).values() for pair in pairs}
    texts = [text for text in sorted(completions)[::12] if len(text.split()) >= 4]
    assert len(texts) > 400
    assert share(first_words(texts, words)) > least
    other = english_share if share is indonesian_share else indonesian_share
    assert other(first_words(texts, words)) < 0.005


def test_a_mixed_list_has_a_share_of_each_language():
    texts = [*INDONESIAN, *ENGLISH]
    assert (indonesian_share(texts), english_share(texts)) == (3 / 5, 2 / 5)


def test_the_language_of_each_text_stands_in_its_place():
    assert identify([ENGLISH[0], *OTHERS.values(), INDONESIAN[0]]).tolist() == ["en", *OTHERS, "id"]


def test_other_languages_are_neither_indonesian_nor_english():
    texts = list(OTHERS.values())
    assert (indonesian_share(texts), english_share(texts)) == (0, 0)


def test_malay_counts_as_indonesian():
    assert identify([MALAY]) == ["ms"]
    assert indonesian_share([MALAY]) == 1


@pytest.mark.parametrize("text", ["", "  \n", "12 345, 6.", "...", "1. 2. 3.", "🙂🙂"])
def test_an_empty_or_wordless_text_is_in_no_language_and_lowers_the_share(text):
    assert identify([text]) == ["zxx"]
    assert indonesian_share([text, INDONESIAN[0]]) == english_share([text, ENGLISH[0]]) == 0.5


def test_letters_at_random_are_in_no_language():
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("bcdfghjklmnpqrstvwxz aeiou "), 60)) for _ in range(20)]
    assert set(identify(texts)) == {"zxx"}


def test_a_text_with_nothing_to_go_by_is_undetermined_and_lowers_the_share():
    assert identify(["Q"]) == ["und"]
    assert indonesian_share(["Q"]) == english_share(["Q"]) == 0


def test_what_else_is_in_the_list_changes_no_language():
    together = identify([*INDONESIAN, "", *ENGLISH, *OTHERS.values()]).tolist()
    apart = [identify([text])[0] for text in [*INDONESIAN, "", *ENGLISH, *OTHERS.values()]]
    assert together == apart


def test_no_texts_have_no_languages_and_no_share():
    assert identify([]).tolist() == []
    for share in (indonesian_share, english_share):
        with pytest.raises(ValueError, match="no texts"):
            share([])


def test_a_single_text_is_refused():
    for call in (identify, indonesian_share, english_share):
        with pytest.raises(TypeError, match="put it into a list"):
            call("Selamat pagi")


def test_a_missing_text_is_refused_with_its_place():
    with pytest.raises(TypeError, match="number 1 is nan"):
        indonesian_share([INDONESIAN[0], float("nan")])


def test_the_model_is_loaded_once():
    identify(ENGLISH)
    loaded = language._identifier()
    identify(INDONESIAN)
    assert language._identifier() is loaded


def test_importing_loads_no_model():
    code = "import lib.evaluation.language as l; print(l._identifier.cache_info().currsize)"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "0"


def test_no_network_is_asked(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    language._identifier.cache_clear()
    assert indonesian_share(INDONESIAN) == 1
