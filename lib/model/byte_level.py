"""Tokenizers that merge bytes, made from their parts: vocabulary, merges, and the name of how they cut text into words.

llama.cpp's files name that way instead of spelling it out. transformers' reader of such files ignores the name: it cuts
every text as GPT-2 does, and a model then reads other tokens than it was trained on.
"""

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

#: How Llama 3 cuts text into words, as its tokenizer.json says it.
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
#: Qwen 2 takes digits one by one.
_QWEN2_WORDS = LLAMA3_WORDS.replace("{1,3}", "")
#: The names that llama.cpp gives to ways of cutting text.
CUTS = ("gpt-2", "smollm", "llama-bpe", "qwen2")
#: In llama.cpp's files: a token that is a sign, such as the end of a turn, and one that somebody added as a text.
CONTROL, _ADDED = 3, 4


def tokenizer(tokens: Sequence[str], types: Sequence[int], merges: Sequence[str], cuts: str) -> Tokenizer:
    """A tokenizer that cuts and merges as the model's own did.

    Args:
        tokens: by their ids.
        types: of each token, as llama.cpp numbers them.
        merges: pairs with a space between, the first one merged first.
        cuts: one of `CUTS`.
    """
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    # In Llama 3's, a word that is a token is that token, whatever the merges make of it.
    made = Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=cuts == "llama-bpe"))
    made.pre_tokenizer = _pre_tokenizer(cuts)
    made.decoder = decoders.ByteLevel()
    if cuts == "qwen2":
        made.normalizer = normalizers.NFC()
    kinds = list(zip(tokens, types, strict=True))
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token, t in kinds if t == CONTROL])
    made.add_tokens([AddedToken(token, normalized=False) for token, t in kinds if t == _ADDED])
    return made


def cuts_of(known: Tokenizer) -> str:
    """Which of `CUTS` a tokenizer cuts text into tokens by, with its own vocabulary; empty where it is none of them."""
    told = json.loads(known.to_str())
    if told["model"]["type"] != "BPE":
        return ""
    for cuts in CUTS:
        own = json.loads(tokenizer((), (), (), cuts).to_str())
        if told["normalizer"] == own["normalizer"] and _words(told) == _words(own):
            # llama.cpp maps a word that is a token to that token at once in Llama 3's way, and in no other. It makes no
            # difference where every token is what its merges produce.
            same = told["model"].get("ignore_merges", False) == own["model"]["ignore_merges"]
            return cuts if same or _merged_whole(told) else ""
    return ""


def _words(told: dict[str, Any]) -> Any:
    """How a tokenizer.json cuts text into words, without what only moves the offsets of a token in its text."""
    return json.loads(
        json.dumps(told["pre_tokenizer"]),
        object_hook=lambda one: {name: value for name, value in one.items() if name != "trim_offsets"},
    )


def _merged_whole(told: dict[str, Any]) -> bool:
    """Whether every token of a tokenizer.json is what its merges make of the token's text."""
    model = told["model"] | {"ignore_merges": False}
    merging = Tokenizer.from_str(json.dumps(told | {"model": model})).model
    return all([token.id for token in merging.tokenize(text)] == [number] for text, number in model["vocab"].items())


def _pre_tokenizer(cuts: str) -> pre_tokenizers.PreTokenizer:
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if cuts == "gpt-2":
        return gpt2
    if cuts == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    words = {"llama-bpe": LLAMA3_WORDS, "qwen2": _QWEN2_WORDS}[cuts]
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
