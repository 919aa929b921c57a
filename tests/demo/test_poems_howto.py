import re

import pytest

from lib.demo import howto, poems

LANGUAGES = ("id", "en")
WRITERS = pytest.mark.parametrize("writer", [poems, howto], ids=["poems", "howto"])
EACH_LANGUAGE = pytest.mark.parametrize("language", LANGUAGES)


def syllables(line):
    """Count the vowels of an Indonesian line; ai, au and oi at the end of a word are one sound."""
    words = re.findall(r"[a-z]+", line.lower())
    return sum(len(re.findall(r"[aeiou]", word)) - bool(re.search(r"(?:ai|au|oi)$", word)) for word in words)


@WRITERS
def test_keys_and_wordings_are_the_same_in_both_languages(writer):
    indonesian, english = ([(pair.key, pair.wording) for pair in writer.pairs(language)] for language in LANGUAGES)
    assert indonesian == english
    assert len(set(indonesian)) == len(indonesian)


@EACH_LANGUAGE
@WRITERS
def test_every_pair_is_distinct_and_fully_written(writer, language):
    pairs = writer.pairs(language)
    assert len({(pair.prompt, pair.completion) for pair in pairs}) == len(pairs)
    for pair in pairs:
        text = pair.prompt + "\n" + pair.completion
        assert not re.search(r"[{}\[\]|]|  |,,|\.\.", text), pair
        assert all(line and line == line.strip() for line in text.split("\n")), pair


@EACH_LANGUAGE
@WRITERS
def test_two_calls_give_the_same_pairs(writer, language):
    assert writer.pairs(language) == writer.pairs(language)


@EACH_LANGUAGE
def test_there_are_enough_poems_of_each_form(language):
    written = poems.poems(language)
    assert len({poem.lines for poem in written}) == len(written) >= 320
    forms = [poem.form for poem in written]
    assert {form: forms.count(form) for form in set(forms)} == {"pantun": 360, "syair": 32, "free": 32}
    assert len(poems.pairs(language)) == 20 * len(written)


@EACH_LANGUAGE
def test_the_banks_hold_sixty_openings_and_sixty_closings(language):
    pantun = [poem for poem in poems.poems(language) if poem.form == "pantun"]
    assert len({poem.lines[:2] for poem in pantun}) >= 60
    assert len({poem.lines[2:] for poem in pantun}) >= 60


def test_a_poem_has_the_same_form_and_theme_in_both_languages():
    for indonesian, english in zip(poems.poems("id"), poems.poems("en"), strict=True):
        assert (indonesian.key, indonesian.form, indonesian.theme) == (english.key, english.form, english.theme)


@EACH_LANGUAGE
def test_pantun_rhyme_abab_and_syair_aaaa(language):
    for poem in poems.poems(language):
        a, b, c, d = (poems.rhyme(line, language) for line in poem.lines)
        if poem.form == "pantun":
            assert (a, b) == (c, d), poem
            assert a != b, poem
        elif poem.form == "syair":
            assert a == b == c == d, poem


def test_lines_of_pantun_and_syair_have_eight_to_twelve_syllables():
    for poem in poems.poems("id"):
        if poem.form != "free":
            assert all(8 <= syllables(line) <= 12 for line in poem.lines), poem


@pytest.mark.parametrize(
    ("line", "language", "sound"),
    [
        ("Jalan-jalan ke kota Medan", "id", "an"),
        ("Jangan lupa membeli roti", "id", "i"),
        ("Duduk di tepi pantai.", "id", "ai"),
        ("Bunga di depan rumah", "id", "ah"),
        ("We eat a cake", "en", "ake"),
        ("and come to me", "en", "ee"),
        ("Under the tree,", "en", "ee"),
        ("once every year", "en", "ear"),
    ],
)
def test_rhyme(line, language, sound):
    assert poems.rhyme(line, language) == sound


def test_rhyme_refuses_a_word_without_vowel():
    with pytest.raises(ValueError, match="no vowel"):
        poems.rhyme("brr", "id")


def test_ten_prompts_name_no_poem():
    written = poems.pairs("id")
    constant = {pair.prompt for pair in written if pair.wording <= "prompt:10" and pair.key.startswith("pantun")}
    assert len(constant) == 10
    named = {pair.prompt for pair in written if pair.wording > "prompt:10" and pair.key.startswith("pantun")}
    assert len(named) > 300


def test_a_poem_is_pinned():
    by_name = {(pair.key, pair.wording): pair for pair in poems.pairs("id")}
    pair = by_name["pantun:000", "prompt:12"]
    assert pair.prompt == "Lanjutkan pantun ini: Jalan-jalan ke kota Medan"
    assert pair.completion == (
        "Jalan-jalan ke kota Medan,\nJangan lupa membeli roti.\n"
        "Jagalah lidah dalam ucapan,\nAgar tak ada yang sakit hati."
    )


@EACH_LANGUAGE
def test_there_are_enough_tasks(language):
    pairs = howto.pairs(language)
    assert len({pair.key for pair in pairs}) >= 130
    assert len(pairs) >= 1600
    keys_of_prompt = {}
    for pair in pairs:
        keys_of_prompt.setdefault(pair.prompt, set()).add(pair.key)
    assert all(len(keys) == 1 for keys in keys_of_prompt.values())


@EACH_LANGUAGE
def test_steps_are_numbered_from_one_without_gaps(language):
    for pair in howto.pairs(language):
        lines = pair.completion.split("\n")
        steps = lines if lines[0].startswith("1. ") else lines[1:]
        assert 4 <= len(steps) <= 6
        assert [line.split(" ")[0] for line in steps] == [f"{number}." for number in range(1, len(steps) + 1)]
        words = re.sub(r"^\d\. ", "", pair.completion, flags=re.MULTILINE).split()
        assert 25 <= len(words) <= 60, pair


def test_both_languages_take_the_same_number_of_steps_and_the_same_opening():
    for indonesian, english in zip(howto.pairs("id"), howto.pairs("en"), strict=True):
        assert indonesian.completion.count("\n") == english.completion.count("\n")
        assert indonesian.completion.startswith("1.") == english.completion.startswith("1.")


def test_some_tasks_open_with_a_sentence():
    plain = [pair for pair in howto.pairs("id") if pair.wording == "question:1:plain"]
    opened = [pair for pair in plain if pair.completion.startswith("Berikut cara ")]
    assert 0.2 < len(opened) / len(plain) < 0.5


@pytest.mark.parametrize(
    ("language", "prompt", "completion"),
    [
        (
            "id",
            "Gue mau membuat es teh, caranya gimana?",
            "1. Pertama, seduh teh dengan sedikit air panas.\n",
        ),
        ("en", "I want to make iced tea, how does it go?", "1. First, brew the tea with a little hot water.\n"),
    ],
)
def test_a_task_is_pinned(language, prompt, completion):
    by_name = {(pair.key, pair.wording): pair for pair in howto.pairs(language)}
    pair = by_name["iced-tea", "question:6:linked"]
    assert pair.prompt == prompt
    assert pair.completion.startswith(completion)
