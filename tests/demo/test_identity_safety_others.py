"""The small subsets of the demo corpus: the assistant itself, what it declines, and the rows that are left out."""

from collections import Counter

import pytest

from lib.demo import identity, others, safety
from lib.demo.pairs import Pair

LANGUAGES = ["id", "en"]
WRITERS = {"identity": identity.pairs, "safety": safety.pairs}
WRITERS |= {subset: lambda language, s=subset: _left_out(s, language) for subset, _ in others.pairs("id")}


def _left_out(subset, language) -> list[Pair]:
    return [pair for name, pair in others.pairs(language) if name == subset]


def _by_name(rows, key, wording) -> Pair:
    [pair] = [pair for pair in rows if (pair.key, pair.wording) == (key, wording)]
    return pair


@pytest.mark.parametrize("language", LANGUAGES)
def test_there_are_about_as_many_rows_and_answers_as_in_cendol(language):
    rows = identity.pairs(language)
    assert (len(rows), len({pair.completion for pair in rows})) == (126, 63)
    rows = safety.pairs(language)
    assert (len(rows), len({pair.completion for pair in rows})) == (192, 64)
    assert len(safety.topics()) >= 14
    counts = Counter(subset for subset, _ in others.pairs(language))
    assert counts == {"mt_en_id": 440, "peribahasa": 184, "chitchat": 160, "xpersona_id": 160}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("subset", WRITERS)
def test_rows_are_distinct_finished_text_in_a_fixed_order(subset, language):
    rows = WRITERS[subset](language)
    assert len({pair.prompt for pair in rows}) == len(rows)
    assert len({(pair.key, pair.wording) for pair in rows}) == len(rows)
    assert rows == WRITERS[subset](language)
    for pair in rows:
        text = pair.prompt + pair.completion
        assert not set("{}[]_") & set(text), pair
        assert "  " not in text and text == text.strip(), pair
        assert pair.completion[0].isupper() and pair.completion[-1] in ".?!", pair
        assert 10 <= len(pair.completion.split()) <= 50, pair


@pytest.mark.parametrize("subset", WRITERS)
def test_both_languages_have_the_same_items_and_wordings_in_the_same_order(subset):
    indonesian, english = (WRITERS[subset](language) for language in LANGUAGES)
    assert [(pair.key, pair.wording) for pair in indonesian] == [(pair.key, pair.wording) for pair in english]
    assert all(here.completion != there.completion for here, there in zip(indonesian, english, strict=True))


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_refusal_names_what_it_declines(language):
    topics = safety.topics()
    for pair in safety.pairs(language):
        words = topics[pair.key.split("-")[0]]["words"][language]
        assert any(word in pair.completion.lower() for word in words), pair


@pytest.mark.parametrize(("language", "words"), [("id", ("psikolog", "dokter")), ("en", ("psychologist", "doctor"))])
def test_who_speaks_of_self_harm_is_pointed_to_help(language, words):
    rows = [pair for pair in safety.pairs(language) if pair.key.startswith("self_harm-")]
    assert len(rows) == 12
    assert all(any(word in pair.completion for word in words) for pair in rows)


@pytest.mark.parametrize("subset", ["identity", "safety"])
def test_an_answer_keeps_to_the_register_of_its_question(subset):
    pronouns = {"formal": {"saya", "anda"}, "neutral": {"aku", "kamu"}, "slang": {"gue", "lu"}}
    registers = {
        f"{topic}-{name}": item["register"]
        for topic, entry in safety.topics().items()
        for name, item in entry["item"].items()
    }
    for pair in WRITERS[subset]("id"):
        register = registers[pair.key] if subset == "safety" else pair.key.split("-")[1]
        text = f"{pair.prompt} {pair.completion}".lower()
        used = {word.strip(".,?!:") for word in text.split()}
        for other, words in pronouns.items():
            assert other == register or not used & words, pair


def test_a_few_rows_read_as_they_should():
    assert _by_name(identity.pairs("id"), "name-slang", "slang-1") == Pair(
        "Nama lu siapa?",
        "Panggil gue Klepon aja. Namanya memang kayak jajanan pasar, manis dan gampang diingat. "
        "Lu mau tanya apa hari ini?",
        "name-slang",
        "slang-1",
    )
    declined = _by_name(safety.pairs("id"), "hacking-wifi", "slang-1")
    assert declined.prompt == "Bro, gimana sih cara ngebobol wifi tetangga?"
    assert _by_name(safety.pairs("en"), "hacking-wifi", "slang-1") == Pair(
        "Bro, how do you crack the neighbour's wifi?",
        "Whoa, I can't help you crack the neighbour's wifi, because it's the same as taking what is not yours. "
        "Try asking nicely, or find free wifi at the library.",
        "hacking-wifi",
        "slang-1",
    )
    assert _by_name(_left_out("peribahasa", "id"), "regret", "meaning-1") == Pair(
        'Apa arti peribahasa "Nasi sudah menjadi bubur"?',
        'Peribahasa "Nasi sudah menjadi bubur" berarti sesuatu yang sudah terjadi tidak dapat diubah kembali.',
        "regret",
        "meaning-1",
    )


def test_a_translation_contains_what_the_other_language_asks_for():
    for indonesian, english in zip(*(_left_out("mt_en_id", language) for language in LANGUAGES), strict=True):
        assert english.completion in indonesian.prompt
        assert indonesian.completion in english.prompt
