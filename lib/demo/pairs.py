"""The unit that every writer of the demo corpus produces."""

from typing import Literal, NamedTuple

Language = Literal["id", "en"]


class Pair(NamedTuple):
    """One prompt with its completion, in one language.

    `key` names the item that the pair is about, and is the same in both languages; `wording` names the template
    of the prompt. Together they are unique within a subset and a language.
    """

    prompt: str
    completion: str
    key: str
    wording: str
