"""The interface of the engines, which decode answers, and the values that pass through it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol
from urllib.parse import urlsplit

from wire.messages import Offered, Reason, Request, Seen, Usage


def is_address(url: str) -> bool:
    """Whether something may be a server's address, as in http://host:port/v1."""
    try:
        parts = urlsplit(url)
        # Looking at the port raises where it is none.
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


class EngineError(ValueError):
    """An engine that cannot be loaded as it was asked for; the message says why, and what to do."""


class EngineAwayError(EngineError):
    """An engine that is not there yet: trying again later may help."""


class EngineRefusalError(ValueError):
    """A request that this engine will not answer: why, and for the log the details."""

    def __init__(self, reason: Reason, details: str) -> None:
        super().__init__(details)
        self.reason: Reason = reason


@dataclass(frozen=True)
class Added:
    """What became of a prompt."""

    prompt_tokens: int | None
    turns_left_out: int = 0


@dataclass(frozen=True)
class Step:
    """What one step did for one answer."""

    gid: str
    text: str = ""
    """Whole characters; it may be empty where a token ends within one."""
    ids: tuple[int, ...] = ()
    finish: Literal["stop", "length", "error"] | None = None
    """The answer has ended, and the engine has forgotten it."""
    reason: Reason | None = None
    """Why, after an error."""
    replaces: bool = False
    """The text is the whole answer, in place of all that came before."""
    usage: Usage | None = None
    """At the end, where the engine counted otherwise than by ids."""


class Engine(Protocol):
    """Decodes any number of answers together. One thread calls it."""

    kind: str
    model: str
    adapter_sha: str | None

    def add(self, request: Request, ids: Sequence[int], text: str) -> Added:
        """Begin an answer, or go on after the tokens and the text that it has.

        Raises:
            EngineRefusalError: if it cannot be answered.
        """

    def offered(self) -> tuple[Offered, ...]:
        """The adapters that can be asked beside the chat's own. Another thread calls this."""

    def step(self) -> list[Step]:
        """One token more for every answer (or, where a server sends them, whatever has come)."""

    def look(self, request: Request, text: str, ended: bool) -> Seen:
        """A finished answer token by token.

        Args:
            request: what was asked.
            text: all of the answer.
            ended: the token that ends it is part of it.

        Raises:
            EngineRefusalError: if that cannot be told.
        """

    def remove(self, gid: str) -> None:
        """Forget an answer; an unknown one is no error."""

    def reset(self) -> None:
        """Forget all answers, after an error."""

    def close(self) -> None:
        """Let go of what is held."""
