import pytest

from lib.model import byte_level

TOKENS = ["<end>", "<added>", *"abcĠ123'SÄīé", "12", "123", "ab", "abc", "ĠĠ"]
TYPES = [3, 4, *[1] * (len(TOKENS) - 2)]
MERGES = ["1 2", "12 3", "a b", "Ġ Ġ"]


@pytest.mark.parametrize(
    ("cuts", "text", "pieces"),
    [
        ("gpt-2", "123", ["123"]),
        ("smollm", "123", ["1", "2", "3"]),
        ("qwen2", "123", ["1", "2", "3"]),
        ("llama-bpe", "123", ["123"]),
        # A number longer than Llama 3's three digits.
        ("gpt-2", "12312", ["123", "12"]),
        ("llama-bpe", "31212", ["3", "12", "12"]),
        # The last space of several belongs to what follows, but to no digit that stands alone.
        ("gpt-2", "  1", ["Ġ", "Ġ", "1"]),
        ("smollm", "  1", ["ĠĠ", "1"]),
        # A word that is a token, though no merges make it.
        ("gpt-2", "abc", ["ab", "c"]),
        ("llama-bpe", "abc", ["abc"]),
    ],
)
def test_each_way_cuts_text_as_the_models_that_have_it(cuts, text, pieces):
    assert byte_level.tokenizer(TOKENS, TYPES, MERGES, cuts).encode(text).tokens == pieces


def test_only_qwen_2_joins_a_letter_and_its_accent():
    apart = {cuts: byte_level.tokenizer(TOKENS, TYPES, MERGES, cuts) for cuts in byte_level.CUTS}
    assert {cuts for cuts, made in apart.items() if made.normalizer} == {"qwen2"}
    assert apart["qwen2"].normalizer.normalize_str("e\u0301") == "\u00e9"


def test_signs_and_added_texts_are_one_token_and_only_signs_are_skipped():
    made = byte_level.tokenizer(TOKENS, TYPES, MERGES, "smollm")
    ids = made.encode("a<end><added>b").ids
    assert ids == [TOKENS.index("a"), 0, 1, TOKENS.index("b")]
    assert made.decode(ids) == "a<added>b"
