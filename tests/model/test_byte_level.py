import json

import pytest
from tokenizers import Tokenizer

from lib import paths
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


@pytest.mark.parametrize("cuts", byte_level.CUTS)
def test_the_way_in_which_a_tokenizer_cuts_text_is_told_from_it(cuts):
    assert byte_level.cuts_of(byte_level.tokenizer(TOKENS, TYPES, MERGES, cuts)) == cuts


def test_the_demo_s_tokenizer_cuts_text_as_llama_3_does():
    assert byte_level.cuts_of(Tokenizer.from_file(str(paths.DEMO_BASE_MODEL / "tokenizer.json"))) == "llama-bpe"


def changed(tokenizer, **changes):
    return Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()) | changes))


def test_another_way_is_given_no_name(tokenizer):
    own = tokenizer.backend_tokenizer
    told = json.loads(own.to_str())
    assert byte_level.cuts_of(own) == "llama-bpe"
    split, to_bytes = told["pre_tokenizer"]["pretokenizers"]
    two_digits = json.loads(json.dumps(split).replace("{1,3}", "{1,2}"))
    for change in (
        {"pre_tokenizer": None},
        {"pre_tokenizer": split},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [two_digits, to_bytes]}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, to_bytes | {"add_prefix_space": True}]}},
        {"normalizer": {"type": "NFC"}},
    ):
        assert byte_level.cuts_of(changed(own, **change)) == ""


def test_offsets_make_no_other_way(tokenizer):
    own = tokenizer.backend_tokenizer
    split, to_bytes = json.loads(own.to_str())["pre_tokenizer"]["pretokenizers"]
    to_bytes["trim_offsets"] = not to_bytes["trim_offsets"]
    other = changed(own, pre_tokenizer={"type": "Sequence", "pretokenizers": [split, to_bytes]})
    assert byte_level.cuts_of(other) == "llama-bpe"


def test_a_token_that_merges_do_not_make_is_taken_at_once_in_llama_3_s_way_alone(tokenizer):
    own = tokenizer.backend_tokenizer
    model = json.loads(own.to_str())["model"]
    # llama.cpp would take the word for this token; a tokenizer that heeds its merges never does.
    model["vocab"]["zzqq"] = own.get_vocab_size() + 1
    assert byte_level.cuts_of(changed(own, model=model | {"ignore_merges": False})) == ""
    assert byte_level.cuts_of(changed(own, model=model | {"ignore_merges": True})) == "llama-bpe"
    smollm = byte_level.tokenizer(TOKENS, TYPES, MERGES, "smollm")
    model = json.loads(smollm.to_str())["model"]
    assert byte_level.cuts_of(changed(smollm, model=model | {"ignore_merges": True})) == ""
