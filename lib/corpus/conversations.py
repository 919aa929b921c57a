"""From a row of any shape to a prompt and its completion.

A conversation of several turns is one row: its last answer is the completion, and all turns before it are the prompt.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

from lib.corpus.formats import SHAPES

#: Who speaks, by what data sets call them.
ROLES = {
    "system": "system",
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model"), "assistant"),
}


class Pair(NamedTuple):
    """A prompt and its completion."""

    input: str
    """What was said before the completion, by which rows are tied: without the system's turn, which many rows share."""
    output: str
    turns: str | None = None
    """The messages before the completion as JSON; None where `input` is the only one."""


class RowError(ValueError):
    """A row that cannot be used: why, in words that rows with the same fault share, and the value."""

    def __init__(self, reason: str, value: Any) -> None:
        super().__init__(reason)
        self.reason, self.value = reason, value


def pair(shape: str, row: dict[str, Any]) -> Pair:
    """The prompt and the completion of a row.

    A conversation ends with its last answer, and begins with a system's turn or a user's: what else stands at its ends
    is left out. Turns without text are left out as well, and what one side says in several turns is one.

    Raises:
        RowError: if it has no texts, or no turns that make a conversation.
    """
    for column in SHAPES[shape]:
        if column not in row:
            raise RowError(f"missing key: {column}", sorted(row))
        if row[column] is None:
            raise RowError(f"{column} is null", None)
    if shape in ("messages", "ShareGPT"):
        said = _turns(row, SHAPES[shape][0])
    elif shape == "prompt and completion" and type(row["prompt"]) is type(row["completion"]) is list:
        said = [*_turns(row, "prompt"), *_turns(row, "completion")]
    else:
        prompt, completion = (_text(row, column) for column in SHAPES[shape])
        if shape == "Alpaca" and (given := _optional(row, "input")):
            prompt = f"{prompt}\n\n{given}"
        said = [("user", prompt), ("assistant", completion)]
    if (system := _optional(row, "system")) and not any(role == "system" for role, _ in said):
        said.insert(0, ("system", system))
    return _conversation(said)


def check_unicode(texts: Iterable[str]) -> None:
    """Raises RowError if a text has what no UTF-8 can write: a lone surrogate, which may stand for a byte."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        sign = error.object[error.start]
        # As Python's surrogateescape writes bytes that it cannot decode.
        is_byte = "\udc80" <= sign <= "\udcff"
        around = error.object[max(0, error.start - 20) : error.start + 20]
        if is_byte:
            around = around.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        raise RowError("invalid UTF-8" if is_byte else "lone surrogate", around) from None


def _text(row: dict[str, Any], column: str) -> str:
    if type(row[column]) is not str:
        raise RowError(f"{column} is not a string", row[column])
    if not row[column].strip():
        raise RowError(f"empty {column}", row[column])
    return row[column]


def _optional(row: dict[str, Any], column: str) -> str:
    return _text(row, column) if row.get(column) not in (None, "") and not _is_blank(row[column]) else ""


def _is_blank(value: Any) -> bool:
    return type(value) is str and not value.strip()


def _turns(row: dict[str, Any], column: str) -> list[tuple[str, str]]:
    """Who says what."""
    turns = row[column]
    if type(turns) is str:
        try:
            turns = orjson.loads(turns)
        except orjson.JSONDecodeError:
            raise RowError(f"{column} is text that is no JSON, as json.dumps would write it", turns) from None
    if type(turns) is not list:
        raise RowError(f"{column} is not a list of turns", turns)
    said = []
    for turn in turns:
        if type(turn) is not dict:
            raise RowError(f"{column} has a turn that is no object", turn)
        speaker, content = turn.get("role") or turn.get("from"), turn.get("content")
        content = turn.get("value") if content is None else content
        role = ROLES.get(speaker.strip().lower()) if type(speaker) is str else None
        if role is None:
            raise RowError(f"{column} has a turn by neither system, user nor assistant", speaker)
        if type(content) is list and all(type(part) is dict and type(part.get("text")) is str for part in content):
            content = "".join(part["text"] for part in content)
        if type(content) is not str:
            raise RowError(f"{column} has a turn whose content is not text", content)
        said.append((role, content))
    return said


def _conversation(said: list[tuple[str, str]]) -> Pair:
    merged: list[tuple[str, str]] = []
    for role, text in said:
        if _is_blank(text):
            continue
        if merged and merged[-1][0] == role:
            merged[-1] = role, f"{merged[-1][1]}\n\n{text}"
        else:
            merged.append((role, text))
    if any(role == "system" for role, _ in merged[1:]):
        raise RowError("a system's turn comes after others", None)
    system = merged[:1] if merged and merged[0][0] == "system" else []
    talk = merged[len(system) :]
    talk = talk[1:] if talk and talk[0][0] == "assistant" else talk
    talk = talk[:-1] if talk and talk[-1][0] == "user" else talk
    if not talk:
        raise RowError("no user's turn with an answer", None)
    check_unicode(text for _, text in merged)
    *before, (_, completion) = talk
    turns = [{"role": role, "content": text} for role, text in [*system, *before]]
    return Pair(
        "\n\n".join(text for _, text in before),
        completion,
        None if len(turns) == 1 else orjson.dumps(turns).decode(),
    )
