"""Tokens turned into text as they come."""

from collections.abc import Iterable, Sequence

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase


class TextStream:
    """The text of one answer, token by token and never half a character: what was given out is never taken back.

    Args:
        ids: the tokens that the answer has already; their text was given out before.
        before: tokens that it goes on from and that are none of its own.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ids: Iterable[int] = (), before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._given: list[str] = []
        self.ids: list[int] = []
        # A first token may look otherwise than the same one after others: it loses a space.
        for token in before:
            self._stream.step(self._tokenizer.backend_tokenizer, token)
        self._before = list(before)
        for token in ids:
            self.add(token)

    def add(self, token: int) -> str:
        """The text that this token completes; empty if it ends within a character."""
        self.ids.append(token)
        text = self._stream.step(self._tokenizer.backend_tokenizer, token) or ""
        self._given.append(text)
        return text

    def whole(self) -> str:
        """The text as evaluation decodes it, all tokens at once."""
        whole = self._tokenizer.decode([*self._before, *self.ids], skip_special_tokens=True)
        return whole[len(self._tokenizer.decode(self._before, skip_special_tokens=True)) :]

    def rest(self) -> str | None:
        """What the whole text has beyond that which was given out; None if it does not begin with that."""
        whole, given = self.whole(), "".join(self._given)
        return whole[len(given) :] if whole.startswith(given) else None
