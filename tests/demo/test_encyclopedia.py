import re

import pytest

from lib.demo import encyclopedia, questions

WRITERS = {"encyclopedia": encyclopedia, "questions": questions}


@pytest.fixture(scope="module", params=WRITERS)
def both(request):
    writer = WRITERS[request.param]
    return writer, {"id": writer.pairs("id"), "en": writer.pairs("en")}


def test_the_same_items_in_the_same_wordings_in_both_languages(both):
    _, rows = both
    names = {language: [(row.key, row.wording) for row in rows[language]] for language in rows}
    assert names["id"] == names["en"]
    assert len(set(names["id"])) == len(names["id"])


@pytest.mark.parametrize("language", ["id", "en"])
def test_five_wordings_an_item_and_no_pair_twice(both, language):
    _, rows = both
    assert len(rows[language]) == 5 * len({row.key for row in rows[language]})
    assert len({(row.prompt, row.completion) for row in rows[language]}) == len(rows[language])


@pytest.mark.parametrize("language", ["id", "en"])
def test_text_is_whole(both, language):
    _, rows = both
    for row in rows[language]:
        assert row.completion[-1] in ".?!", row
        assert not row.completion[0].islower(), row
        for text in (row.prompt, row.completion):
            assert text == text.strip() and "  " not in text and ".." not in text, row
            assert not re.search(r"[{}|]", text), row


@pytest.mark.parametrize("language", ["id", "en"])
def test_repeated_calls_agree(both, language):
    writer, rows = both
    assert writer.pairs(language) == rows[language]


@pytest.mark.parametrize("language", ["id", "en"])
def test_enough_of_them(language):
    sections = encyclopedia.pairs(language)
    assert len(sections) >= 6500
    assert len({row.key.split("/")[0] for row in sections}) >= 350
    assert len({row.key.split(":")[0] for row in sections}) >= 10
    assert len({row.key for row in questions.pairs(language)}) >= 700


@pytest.mark.parametrize("language", ["id", "en"])
def test_sections_have_twelve_to_sixty_words(language):
    short = [row for row in encyclopedia.pairs(language) if not 12 <= len(row.completion.split()) <= 60]
    assert short == []


@pytest.mark.parametrize("language", ["id", "en"])
def test_a_question_has_one_informal_wording_in_five(language):
    rows = [row for row in questions.pairs(language) if row.wording == "4"]
    assert len(rows) == len({row.key for row in questions.pairs(language)})


def test_sections_are_asked_for_in_both_registers():
    informal = [row for row in encyclopedia.pairs("id") if row.wording in {"mau-tau", "kasih-tau", "jelasin"}]
    assert 0.2 < len(informal) / len(encyclopedia.pairs("id")) < 0.3


def test_english_articles_fit_the_next_word():
    for row in encyclopedia.pairs("en") + questions.pairs("en"):
        wrong = re.findall(r"\b(?:an [^aeiouAEIOU\W]\w*|a [aeioAEIO]\w*)", row.prompt + " " + row.completion)
        assert wrong == [], row


def test_capitals_come_after_a_full_stop_only_where_a_sentence_begins():
    assert encyclopedia.sentences("saya makan. dia tidur! siapa? Budi.") == "Saya makan. Dia tidur! Siapa? Budi."


def test_sums_are_right():
    numbers = {word: number for number, word in enumerate(questions.NUMBERS["id"])}
    rows = questions.sums("id")
    assert all(numbers[row["a"]] + numbers[row["b"]] == numbers[row["c"]] for row in rows)
    assert len({(row["a"], row["b"]) for row in rows}) == len(rows) == 40


def test_the_odd_ones_are_not_of_the_group():
    for language, column in (("id", "title"), ("en", "a")):
        members = {name: {row[column] for row in encyclopedia.facts(name, language)} for name in questions.GROUPS}
        for row in questions.choices(language):
            options = re.split(r", (?:atau )?| or ", row["options"])
            assert len(options) == 3
            assert [word for word in options if word in members[row["key"].split("-")[0]]] == [row["answer"]]


@pytest.mark.parametrize(
    ("writer", "language", "prompt", "completion"),
    [
        (
            "encyclopedia",
            "en",
            "Write a short paragraph about the food of cows.",
            "The food of cows is grass and straw. These animals find their food on farms.",
        ),
        (
            "encyclopedia",
            "id",
            "Buatlah paragraf singkat tentang makanan sapi.",
            "Makanan sapi adalah rumput dan jerami. Hewan ini biasanya mencari makanannya di peternakan.",
        ),
        ("questions", "id", 'Apa lawan kata "besar"?', 'Lawan kata "besar" adalah "kecil".'),
        ("questions", "en", 'What is the opposite of "big"?', 'The opposite of "big" is "small".'),
        (
            "questions",
            "id",
            "Budi memiliki dua apel, lalu mendapat dua lagi. Berapa apel Budi sekarang?",
            "Budi memiliki empat apel, karena dua ditambah dua sama dengan empat.",
        ),
    ],
)
def test_known_pairs(writer, language, prompt, completion):
    assert (prompt, completion) in [(row.prompt, row.completion) for row in WRITERS[writer].pairs(language)]
